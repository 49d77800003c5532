"""Recall and false alarms of the alignment checks of `condprep verify`, through `verify` itself.

    python -m bench verify-alignment [--kinds canny hed pidinet lineart xdog depth] [--told known picture unsaid]
                                     [--rows 504] [--side 512] [--defects none "shift 4" ...]
                                     [--pictures DIR] [--hed-weights DIR] [--weights DIR] [--cache DIR]

Pairs are crops of scikit-image's photographs and of the shared test data, in an order in which neighbours are of different
photographs; pictures are stored as JPEG (quality 95), maps were made of the pixels before. A defect is planted into every
row of a copy; an alarm is a row with a finding; what is said of all rows together (out-of-step, shared-shift) stands behind.
`all 2 px` and the like move all rows in the same way. `known` names the annotator, `picture` does not, and `unsaid` not even
the kind of the maps. Depth is measured, not annotated: crops of scikit-image's stereo pair and of an RGB-D recording of the
shared data. Poses have `verify-poses`. What a network made of a picture is kept in --cache, so that a run that was stopped
goes on where it was, and some defects can be measured now, others later. `--pictures` measures with other photographs, which
no threshold has seen.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import condprep
from bench.alignment import Picture, annotate, canny_at_random, cut, depth_pairs, photographs, windows
from condprep.annotators.protocol import Annotator
from condprep.annotators.registry import load_annotator
from condprep.runtime.files import commit
from condprep.types import Maps
from condprep.verification import reannotate
from condprep.verification.alignment.registration import unscaled
from condprep.weights.find import Weights

Plant = Callable[[Picture, np.random.Generator], Picture]


@dataclass(frozen=True)
class Set:
    """Clean pairs, and what `verify` is told of them."""

    title: str
    column: str
    pairs: Sequence[tuple[str, bytes, Picture]]  # photograph, encoded picture, map
    how: Mapping[str, Any]


def crops(folder: Path | None, count: int, side: int) -> list[tuple[str, Picture]]:
    """At least `count` crops; neighbours are of different photographs."""
    chosen = list(photographs(folder))
    each = -(-count // len(chosen))
    cuts = {name: list(squares(name, picture, each, side)) for name, picture in chosen}
    return [(name, cuts[name][n]) for n in range(each) for name, _ in chosen]


def squares(name: str, picture: Picture, count: int, side: int) -> Iterator[Picture]:
    """Square crops of so many pixels; of one shape, so that a strange map is told by what it shows."""
    for y, x, h, w, *_ in windows(name, *picture.shape[:2], count):
        yield cut(picture, (y, x, min(h, w), min(h, w), side, side))


def moved(stored: Picture, rng: np.random.Generator, by: int) -> Picture:
    """Shifted by so many pixels along one axis or both; what comes in is black."""
    dx, dy = [(by, 0), (-by, 0), (0, by), (0, -by), (by, -by), (-by, by)][rng.integers(6)]
    return placed(stored, dx, dy)


def placed(stored: Picture, dx: int, dy: int) -> Picture:
    """So many pixels to the right and down."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(stored, matrix, stored.shape[1::-1], flags=cv2.INTER_NEAREST)


def turned(stored: Picture, rng: np.random.Generator) -> Picture:
    return np.rot90(stored, rng.choice([1, 3]))


def scaled(stored: Picture, rng: np.random.Generator, by: float) -> Picture:
    return unscaled(stored, rng.choice([1 + by, 1 / (1 + by)]))


DEFECTS: Mapping[str, Plant] = {
    "none": lambda stored, rng: stored,
    "shift 1": partial(moved, by=1),
    "shift 2": partial(moved, by=2),
    "shift 4": partial(moved, by=4),
    "shift 8": partial(moved, by=8),
    "flip h": lambda stored, rng: stored[:, ::-1],
    "flip v": lambda stored, rng: stored[::-1],
    "turn 90": turned,
    "turn 180": lambda stored, rng: stored[::-1, ::-1],
    "scale 2 %": partial(scaled, by=0.02),
    "scale 3 %": partial(scaled, by=0.03),
    "scale 5 %": partial(scaled, by=0.05),
    "all 2 px": lambda stored, rng: placed(stored, 2, 0),
    "all 3 px": lambda stored, rng: placed(stored, 0, -3),
    "all 1.5 %": lambda stored, rng: unscaled(stored, 1 / 1.015),
}


OTHERS = ("wrong map", "off by one", "shuffled")
TOGETHER = ("out-of-step", "shared-shift")  # rules about rows together
FURTHER = {"pidinet": "pidinet", "lineart": "aux:lineart_standard", "xdog": "scribble:xdog"}
TOLD = ("known", "picture", "unsaid")
UNSAID = "conditioning_image"  # a column whose name is that of no kind


def column(pairs: Sequence[tuple[str, bytes, Picture]], defect: str) -> list[Picture]:
    """The maps of all rows, with a defect."""
    rng, maps = np.random.default_rng(1), [stored for _, _, stored in pairs]
    if defect == "wrong map":
        strangers = [[stored for other, _, stored in pairs if other != name] for name, _, _ in pairs]
        return [some[rng.integers(len(some))] for some in strangers]
    if defect == "off by one":
        half = len(maps) // 2
        return maps[:half] + maps[half + 1 :] + maps[-1:]
    if defect == "shuffled":
        return [maps[n] for n in rng.permutation(len(maps))]
    return [DEFECTS[defect](stored, rng) for stored in maps]


def write(pairs: Sequence[tuple[str, bytes, Picture]], maps: Sequence[Picture], column: str, folder: Path) -> Path:
    """The rows as a Parquet dataset."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"image": {"bytes": data, "path": None}, column: {"bytes": png(stored), "path": None}}
        for (_, data, _), stored in zip(pairs, maps)
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({"image": image, column: image})), folder / "rows.parquet")
    return folder / "rows.parquet"


def png(pixels: Picture) -> bytes:
    ordered = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def jpeg(pixels: Picture) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def told(pairs: Sequence[tuple[str, bytes, Picture]]) -> list[tuple[str, bytes, Picture]]:
    """Those whose maps show anything: an empty one fits any way."""
    return [pair for pair in pairs if pair[2].any()]


def measure(one: Set, defects: Sequence[str]) -> None:
    """A line for each defect: rows with a finding, those of which nothing is known, rows a second, what is told of all together."""
    pairs = told(one.pairs)
    print(f"\n{one.title}: {len(pairs)} pairs", flush=True)
    for defect in defects:
        maps = column(pairs, defect)
        with tempfile.TemporaryDirectory() as folder:
            path = write(pairs, maps, one.column, Path(folder))
            found = condprep.verify(path, checks=["alignment"], sample="all", weights=Weights(offline=True), **one.how)
            verdicts = pq.read_table(found.scores, columns=["alignment"])["alignment"].to_pylist()
        alarms = {finding.row for finding in found.findings if finding.rule not in TOGETHER}
        runs = [finding.reason for finding in found.findings if finding.rule in TOGETHER]
        line = f"{len(alarms) / len(maps):7.1%}  unknown {verdicts.count('unknown'):3}"
        print(f"  {defect:11} {line}  {len(maps) / found.seconds:5.0f} rows/s  {'; '.join(runs)}", flush=True)


class Remembering:
    """An annotator that looks at each picture once, also over several runs."""

    def __init__(self, annotator: Annotator, folder: Path) -> None:
        self.annotator = annotator
        self.folder = folder / "-".join(filter(None, (annotator.name, annotator.variant)))
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.annotator, name)

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        return Maps(torch.stack([self.one(picture, keys[0]) for picture in rgb]), {})

    def one(self, picture: torch.Tensor, key: str) -> torch.Tensor:
        """The map (C, H, W) of a picture (3, H, W)."""
        path = self.folder / f"{hashlib.sha256(picture.numpy().tobytes()).hexdigest()}.raw"
        if not path.exists():
            made = self.annotator(picture[None], [key]).maps[0].numpy()
            commit(path, lambda unfinished: unfinished.write_bytes(made.tobytes()))
        return torch.from_numpy(np.fromfile(path, np.uint8)).reshape(-1, *picture.shape[1:])


class Remembered:
    """The annotators, loaded once each, that remember what they made."""

    def __init__(self, folder: Path, hed_weights: Path | None, weights: Path | None) -> None:
        self.folder, self.hed_weights, self.weights = folder, hed_weights, weights
        self.soft = "hed" if hed_weights else "hed:tensor"

    @cache  # noqa: B019  there is one, and it lives as long as the program
    def __call__(self, name: str) -> Remembering:
        params = {"precision": "bf16"} if name == self.soft else None
        weights = Weights(self.hed_weights if name == self.soft else self.weights)
        return Remembering(load_annotator(name, params=params, weights=weights), self.folder)


def sets(options: argparse.Namespace, remembered: Remembered) -> Iterator[Set]:
    photos = crops(options.pictures, options.rows, options.side)
    if "canny" in options.kinds:
        yield Set(
            "canny, known", "canny", [(n, jpeg(p), cv2.Canny(p, 100, 200)) for n, p in photos], {"annotator": "canny"}
        )
        yield Set("canny:random, picture", "canny", [(n, jpeg(p), canny_at_random(p)) for n, p in photos], {})
    if "hed" in options.kinds:
        soft = [(n, jpeg(p), annotate(remembered(remembered.soft), p)) for n, p in photos]
        yield Set("hed, known", "hed", soft, {"annotator": remembered.soft})
        yield Set("hed, picture", "hed", soft, {})
        yield Set("hed, unsaid", UNSAID, soft, {})
    for kind, name in FURTHER.items():
        if kind in options.kinds:
            drawn = [(n, jpeg(p), annotate(remembered(name), p)) for n, p in photos]
            yield Set(f"{name}, unsaid", UNSAID, drawn, {})
    if "depth" in options.kinds:
        scenes = [one for one in depth_pairs(options.rows // 3) if not one[0].startswith("TUM")]
        depth = [(n, jpeg(p), m) for n, p, m in scenes if m.shape[0] == m.shape[1]]
        yield Set("depth, picture", "depth", [depth[n] for n in np.random.default_rng(0).permutation(len(depth))], {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kinds", nargs="*", choices=["canny", "depth", "hed", *FURTHER], default=["canny", "depth", "hed"]
    )
    parser.add_argument("--told", nargs="*", choices=TOLD, default=TOLD, help="what verify is told of the maps")
    parser.add_argument("--rows", type=int, default=504)
    parser.add_argument("--side", type=int, default=512, help="pixels of the crops, but for depth")
    parser.add_argument("--defects", nargs="*", default=[*DEFECTS, *OTHERS])
    parser.add_argument("--pictures", type=Path, help="a folder of other photographs (.jpg)")
    parser.add_argument("--hed-weights", type=Path, help="a folder with ControlNetHED.pth; default: hed:tensor")
    parser.add_argument("--weights", type=Path, help="a folder with the other networks' weights")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "condprep-bench")
    options = parser.parse_args()
    original, remembered = reannotate.load_annotator, Remembered(options.cache, options.hed_weights, options.weights)
    reannotate.load_annotator = lambda name, **how: remembered(name) if name != "canny" else original(name)
    for one in sets(options, remembered):
        if one.title.rpartition(", ")[2] in options.told:
            measure(one, options.defects)
