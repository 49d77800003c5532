"""Condition maps for a few pictures, without a dataset: at inference time, in a notebook, inside another pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from condprep.annotators.batches import as_batch, by_shape
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import Recorded
from condprep.annotators.registry import load_annotator
from condprep.annotators.runner import Result, Runner
from condprep.building.options import BuildOptions, parse_options
from condprep.building.picture import further_columns
from condprep.errors import Rejected, UsageError
from condprep.images.decode import decode, rgb_pixels
from condprep.images.geometry import Geometry, Placement, pad, resize
from condprep.runtime.files import commit, commit_json, read_json
from condprep.sources.base import read_regular
from condprep.types import IMPORTED, Reject

if TYPE_CHECKING:
    from condprep.weights.find import Weights

Picture = str | Path | bytes | Image.Image | np.ndarray  # a file, its bytes, a PIL picture, or (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class Annotated:
    """A picture as the annotators saw it, its maps of the same size by column, and what they found besides."""

    image: Image.Image  # RGB
    maps: Mapping[str, Image.Image]  # "canny" -> L or RGB
    columns: Mapping[str, Any]  # "keypoints" -> {"people": [...]}


@dataclass(frozen=True)
class Placed:
    """A picture on its way through `annotate`."""

    number: int
    name: str
    key: str  # sha256 of the bytes or pixels
    rgb: np.ndarray  # (*content, 3) uint8
    placement: Placement


def annotate(
    images: Sequence[Picture],
    annotators: str | Sequence[str] = (),
    *,
    like: str | Path | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    resolution: int | None = None,
    fit: str | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    trust_annotators: Sequence[str] = (),
) -> list[Annotated | Reject]:
    """Maps of `images`, in their order; a picture that cannot be read is a Reject with its reason.

    annotators: names as "canny" or "openpose:blaze". like: a dataset made by condprep, whose annotators, parameters and
    geometry are repeated exactly instead. params: {"canny": {"low": 50}}. fit: "keep" (the size as it is, the default),
    "crop", "bucket" or "pad" to `resolution` pixels (default 512). trust_annotators: names that `like` may name beside
    condprep's own: models of others and plug-ins. Raises UsageError for what the caller got wrong,
    WeightsError for weights.
    """
    if isinstance(images, str | Path | bytes | Image.Image):
        raise UsageError("images is one picture; give a list of them: [picture]")
    if bool(annotators) == bool(like):
        raise UsageError("give either annotators (--annotator) or a dataset whose annotators are repeated (--like)")
    if like:
        if params or resolution is not None or fit is not None:
            raise UsageError("--like repeats a dataset's parameters and size; leave out --set, --resolution and --fit")
        geometry, loaded = load_like(like, device, weights, trust_annotators)
    else:
        chosen: dict[str, Any] = {
            "resolution": 512 if resolution is None else resolution,
            "fit": "keep" if fit is None else fit,
        }
        options = parse_options(annotators, params, **chosen)
        geometry, loaded = options.geometry, _load(options, device, weights)
    results: dict[int, Annotated | Reject] = {}
    placed = _place_all(images, geometry, results)
    batch_size = max(annotator.batch_size for annotator in loaded.values())
    runners = {column: Runner(annotator) for column, annotator in loaded.items()}
    for batch in by_shape(placed, lambda one: one.rgb, batch_size):
        results.update(_annotate(batch, runners))
    return [results[number] for number in range(len(images))]


def _load(options: BuildOptions, device: str, weights: Weights | None) -> dict[str, Annotator]:
    """The annotators that were asked for, by column."""
    return {
        column: load_annotator(name, device=device, params=options.params.get(name.partition(":")[0]), weights=weights)
        for name, column in options.columns().items()
    }


def annotate_files(
    images: Sequence[Path], out: Path, *, pictures: bool = False, overwrite: bool = False, **how: Any
) -> tuple[list[Path], list[Reject]]:
    """Maps of picture files as `out/NAME.png` (`NAME.COLUMN.png` of several annotators), keypoints as `NAME.json`.

    pictures: also `NAME.image.png`, the picture as the annotators saw it. how: what `annotate` takes. Returns the files
    written and the pictures that could not be read. Raises UsageError, before anything is written, where a file is there
    already and `overwrite` is not said.
    """
    files: dict[Path, Any] = {}
    rejects = []
    for name, result in zip(_output_names(images), annotate(list(images), **how)):
        if isinstance(result, Reject):
            rejects.append(result)
            continue
        for path, value in ((out / file, value) for file, value in _files(name, result, pictures)):
            if path in files:
                raise UsageError(f"two of the pictures would become {path}; annotate them into different folders")
            if path.exists() and not overwrite:
                raise UsageError(f"{path} exists; choose another --out or say --overwrite")
            files[path] = value
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, value in files.items():
            _write(path, value)
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}; choose another --out") from error
    return list(files), rejects


def _output_names(images: Sequence[Path]) -> list[str]:
    """The stems; the whole file name where two pictures share one."""
    stems = Counter(image.stem for image in images)
    return [image.stem if stems[image.stem] == 1 else image.name for image in images]


def _files(name: str, result: Annotated, pictures: bool) -> Iterator[tuple[str, Any]]:
    """What is written of one picture: file name -> PIL picture or JSON."""
    for column, image in result.maps.items():
        yield f"{name}.png" if len(result.maps) == 1 else f"{name}.{column}.png", image
    if pictures:
        yield f"{name}.image.png", result.image
    for column, value in result.columns.items():
        if column.startswith("keypoints"):
            yield f"{name}{column.removeprefix('keypoints').replace('_', '.', 1)}.json", value


def _write(path: Path, value: Any) -> None:
    if isinstance(value, Image.Image):
        commit(path, lambda partial: value.save(partial, "PNG"))
    else:
        commit_json(path, value)


def load_like(
    path: str | Path, device: str, weights: Weights | None, trust: Sequence[str] = ()
) -> tuple[Geometry, dict[str, Annotator]]:
    """The geometry and the annotators (by column) that made a dataset, or that on which a ControlNet was trained.

    trust: annotators that it may name beside condprep's own. Raises where they cannot be had exactly.
    """
    stored = Path(path) / ".condprep" / "provenance.json"
    if not stored.exists() and (trained := Path(path) / "condition.json").exists():  # a folder of the trainer's
        stored = trained
    if not stored.exists():
        raise UsageError(f"{path} is no dataset made by condprep: {stored} is missing")
    try:
        provenance = read_json(stored)
        geometry = parse_options((), **provenance["geometry"]).geometry  # within the bounds that a build has
        wanted = {str(one["column"]): Recorded.of(str(path), one) for one in provenance["annotators"]}
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{stored} is damaged ({type(error).__name__}: {error}); build the dataset again") from error
    if not wanted:
        raise UsageError(
            f"{path} was trained on conditions that condprep did not make; make them as they were made then"
        )
    if any(one.name == IMPORTED for one in wanted.values()):
        raise UsageError(
            f"the maps of {path} were imported, so there is no annotator to repeat; name the one that made them with "
            "--annotator"
        )
    return geometry, {column: one.load(trust=trust, device=device, weights=weights) for column, one in wanted.items()}


def _place_all(
    images: Iterable[Picture], geometry: Geometry, results: dict[int, Annotated | Reject]
) -> Iterator[Placed]:
    for number, image in enumerate(images):
        name = str(image) if isinstance(image, str | Path) else f"picture {number}"
        try:
            key, rgb = _read(image)
            placement = geometry.place((rgb.shape[0], rgb.shape[1]))
            yield Placed(number, name, key, resize(rgb, placement), placement)
        except Rejected as rejected:
            results[number] = Reject(name, rejected.stage, rejected.reason, rejected.code)


def _read(image: Picture) -> tuple[str, np.ndarray]:
    """The key and the pixels, (H, W, 3) uint8 RGB. Raises Rejected."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            reason = f"an array of {image.shape} {image.dtype} is not (H, W, 3) uint8 RGB"
            raise Rejected("decode", reason, code="unknown-format")
        own = np.array(
            image, order="C"
        )  # torch takes no read-only array, and no annotator shall write into the caller's
        return sha256(own.tobytes()).hexdigest(), own
    if isinstance(image, Image.Image):
        rgb = _loaded(image)
        return sha256(rgb.tobytes()).hexdigest(), rgb
    data = image if isinstance(image, bytes) else read_regular(Path(image))
    return sha256(data).hexdigest(), decode(data).rgb


def _loaded(image: Image.Image) -> np.ndarray:
    """The pixels of a PIL picture, which is decoded only now where it was opened from a file. Raises Rejected."""
    try:
        return rgb_pixels(image)
    except (OSError, SyntaxError, ValueError) as error:
        reason = f"{image.format or 'the picture'} cannot be decoded: {error}"
        raise Rejected("decode", reason, code="damaged") from None


def _annotate(batch: list[Placed], runners: Mapping[str, Runner]) -> Iterator[tuple[int, Annotated | Reject]]:
    """Pictures of one shape through every annotator."""
    rgb, keys = as_batch([placed.rgb for placed in batch]), [placed.key for placed in batch]
    by_column = {column: runner(rgb, keys) for column, runner in runners.items()}
    for i, placed in enumerate(batch):
        found = {column: results[i] for column, results in by_column.items()}
        yield placed.number, _annotated(placed, found, {column: runners[column].annotator for column in runners})


def _annotated(
    placed: Placed, results: Mapping[str, Result], annotators: Mapping[str, Annotator]
) -> Annotated | Reject:
    maps: dict[str, Image.Image] = {}
    columns: dict[str, Any] = {}
    for column, result in results.items():
        if isinstance(result, Rejected):
            return Reject(placed.name, result.stage, result.reason, result.code, placed.key)
        pixels, further = result
        maps[column] = Image.fromarray(pad(pixels, placed.placement))
        columns |= further_columns(column, annotators[column], further, placed.placement)
    return Annotated(Image.fromarray(pad(placed.rgb, placed.placement)), maps, columns)
