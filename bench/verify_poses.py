"""Recall and false alarms of the alignment checks on pose maps, through `condprep verify` itself.

    python -m bench verify-poses [--crops 9] [--sets dm14 foreign ...] [--half A] [--pictures DIR] [--cache DIR]

Pairs are crops of photographs with people (the shared test data, scikit-image's, and those of `--pictures`), some mirrored,
all in colours of their own, stored as JPEG. `dm14` and `blaze` are what `condprep build` makes of them: the map is that of the
stored pixels, and the dataset says so. `dm14-named` and `blaze-named` are maps of the pixels before the JPEG, of which a
user says the annotator; `foreign` are such maps of dm14, and `truth` drawings of the people as people marked them, of which
`verify` is told nothing, so that it looks with blaze. `dm14-unnamed` and `blaze-unnamed` are the named maps, told to nobody
as well, but dm14 is at hand as openpose:cmu would be: `verify` has to recognise who drew them.
A defect is planted into every row of a copy; an alarm is a row with a finding.

Each crop is annotated once, before and after the JPEG, and kept in the cache by photograph, so that a run that was
interrupted goes on. `--half` takes every second photograph by name; the limits were chosen with both halves in sight.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from skimage import data

import condprep
from bench import SHARED
from bench.alignment import Picture, annotate, cut, other_network
from bench.coco import body_of
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.keypoints import Body
from condprep.annotators.openpose.load import BODY
from condprep.annotators.registry import load_annotator
from condprep.images.decode import decode
from condprep.images.encode import encode_map, encode_picture
from condprep.types import Maps
from condprep.verification import reannotate
from condprep.verification.alignment.registration import unscaled
from condprep.verification.poses.comparison import same_drawing
from condprep.weights.find import Weights

Place = Callable[[Body], Body]  # a body of the photograph in a crop
Plant = Callable[[Picture, np.random.Generator], Picture]
WITH_PEOPLE = ("189080", "271035", "361010", "385039")  # of the shared data's edges
SHAPES = ((512, 512), (512, 512), (576, 448), (448, 576), (512, 512), (384, 384), (768, 512))  # height, width
NETWORKS = {"dm14": other_network, "blaze": lambda: load_annotator("openpose:blaze")}
VARIANTS = {"dm14": "cmu", "blaze": "blaze"}  # as which of openpose's they are at hand
MADE = [{"column": "pose", "annotator": "openpose", "variant": "cmu", "params": {}, "weights": {}, "parameters": {}}]
OPTIONS: Mapping[str, Any] = {"config": {"requested": {"options": {"beside": [], "primary": None}}}}


@dataclass(frozen=True)
class Set:
    """Who drew the maps, the networks that are at hand, and who tells `verify` that it was the first: "build", "user" or nobody."""

    drew: str
    at_hand: tuple[str, ...]
    told: str = ""


MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]  # left and right swapped
SETS = {
    "dm14": Set("dm14 again", ("dm14",), "build"),
    "blaze": Set("blaze again", ("blaze",), "build"),
    "dm14-named": Set("dm14", ("dm14",), "user"),
    "blaze-named": Set("blaze", ("blaze",), "user"),
    "dm14-unnamed": Set("dm14", ("dm14", "blaze")),
    "blaze-unnamed": Set("blaze", ("dm14", "blaze")),
    "foreign": Set("dm14", ("blaze",)),
    "truth": Set("truth", ("blaze",)),
}


@dataclass(frozen=True)
class Row:
    """A stored picture, the maps that each network drew of the pixels before ("dm14") and of the file ("dm14 again"), and
    where people marked the people in the photograph, the map of that ("truth").
    """

    name: str  # of the photograph
    jpeg: bytes
    maps: Mapping[str, bytes]  # PNG


def photographs(folder: Path | None) -> Iterator[tuple[str, Picture]]:
    paths = [*sorted((SHARED / "data" / "people").glob("*.jpg"))]
    paths += [SHARED / "data" / "edges" / f"{name}.jpg" for name in WITH_PEOPLE]
    paths += sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png")) if folder else []
    for path in paths:
        yield path.stem, np.asarray(Image.open(path).convert("RGB"))
    yield "astronaut", data.astronaut()
    yield "camera", np.repeat(data.camera()[..., None], 3, 2)


def crops(name: str, picture: Picture, count: int) -> Iterator[tuple[Picture, Place]]:
    """The largest that fits, then random ones down to 55 % of it, half of them mirrored, all in other colours."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 7)
    height, width = picture.shape[:2]
    for number in range(count):
        tall, wide = SHAPES[number % len(SHAPES)]
        scale = min(height / tall, width / wide) * (1 if number == 0 else rng.uniform(0.55, 1))
        h, w = int(tall * scale), int(wide * scale)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        crop = cut(picture, (top, left, h, w, tall, wide))
        mirrored = bool(number and rng.random() < 0.5)
        if mirrored:
            crop = crop[:, ::-1]
        if number:
            crop = np.clip((crop / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.15, 3) * 255, 0, 255)
        place = partial(placed, window=(top, left, h, w), size=(tall, wide), mirrored=mirrored)
        yield np.ascontiguousarray(crop.astype(np.uint8)), place


def placed(body: Body, window: tuple[int, int, int, int], size: tuple[int, int], mirrored: bool) -> Body:
    """A body (18, 3) of a photograph in its crop, without the joints that are outside."""
    (top, left, h, w), (tall, wide) = window, size
    x, y = (body[:, 0] - left + 0.5) * wide / w - 0.5, (body[:, 1] - top + 0.5) * tall / h - 0.5
    moved = np.column_stack([wide - 1 - x if mirrored else x, y, body[:, 2]])
    inside = (body[:, 2] > 0) & (x >= 0) & (x < wide) & (y >= 0) & (y < tall)
    shown = np.where(inside[:, None], moved, 0).astype(np.float32)
    return np.asarray(shown[MIRRORED] if mirrored else shown)


def annotated_people(name: str) -> list[Body]:
    """The people of a photograph of the shared data, as people marked them; the neck is the middle of the shoulders."""
    marks = json.loads((SHARED / "data" / "people" / "test_coco.json").read_text())["annotations"]
    people = [np.reshape(one["keypoints"], (17, 3)) for one in marks if name == f"{one['image_id']:012}"]
    bodies = [body_of(person).astype(np.float32) for person in people]
    return [body for body in bodies if body.any()]


def truths(name: str, picture: Picture, count: int) -> Iterator[bytes]:
    """The maps of the people as they are marked in each crop."""
    people = annotated_people(name)
    for crop, place in crops(name, picture, count if people else 0):
        yield encode_map(draw_bodies([place(body) for body in people], *crop.shape[:2]), binary=False)


def rows(name: str, picture: Picture, count: int, cache: Path) -> list[Row]:
    """The rows of a photograph, from the cache as far as they are there."""
    path = cache / f"{name}.parquet"
    known = pq.read_table(path).to_pylist() if path.exists() else []
    if len(known) < count:
        networks = {name: load() for name, load in NETWORKS.items()}
        for crop, _ in [*crops(name, picture, count)][len(known) :]:
            known.append(annotated(crop, networks))
            pq.write_table(pa.Table.from_pylist(known), path)
    drawn: list[Mapping[str, bytes]] = [{"truth": one} for one in truths(name, picture, count)] or [{}] * count
    return [Row(name, row.pop("jpeg"), row | more) for row, more in zip(known, drawn)]


def annotated(crop: Picture, networks: Mapping[str, Any]) -> dict[str, bytes]:
    jpeg = encode_picture(crop)
    found = {"jpeg": jpeg}
    for name, network in networks.items():
        for when, pixels in ((name, crop), (f"{name} again", decode(jpeg).rgb)):
            found[when] = encode_map(annotate(network, pixels), binary=False)
    return found


def shifted(stored: Picture, dx: int, dy: int) -> Picture:
    """Moved to the right and down; what comes in is black."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(stored, matrix, stored.shape[1::-1], flags=cv2.INTER_NEAREST)


def moved(by: int) -> Plant:
    """Shifted by so many pixels along one axis or both, each row in another direction."""

    def plant(stored: Picture, rng: np.random.Generator) -> Picture:
        dx, dy = [(by, 0), (-by, 0), (0, by), (0, -by), (by, -by), (-by, by)][rng.integers(6)]
        return shifted(stored, dx, dy)

    return plant


def scaled(by: float) -> Plant:
    return lambda stored, rng: unscaled(stored, rng.choice([1 + by, 1 / (1 + by)]))


DEFECTS: Mapping[str, Plant] = {
    "none": lambda stored, rng: stored,
    **{f"shift {by}": moved(by) for by in (1, 2, 4, 8, 16)},
    "all (2, 0)": lambda stored, rng: shifted(stored, 2, 0),
    "all (0, 4)": lambda stored, rng: shifted(stored, 0, 4),
    "flip h": lambda stored, rng: stored[:, ::-1],
    "flip v": lambda stored, rng: stored[::-1],
    "turn 90": lambda stored, rng: np.rot90(stored, rng.choice([1, 3])),
    "turn 180": lambda stored, rng: stored[::-1, ::-1],
    "scale 2 %": scaled(0.02),
    "scale 5 %": scaled(0.05),
}
WRONG = "wrong map"


def planted(pairs: Sequence[tuple[Row, Picture]], defect: str) -> list[Picture]:
    """The maps of all rows with a defect. A wrong map is of another photograph and of the same shape."""
    rng = np.random.default_rng(1)
    if defect != WRONG:
        return [DEFECTS[defect](stored, rng) for _, stored in pairs]
    strangers = [
        [other for one, other in pairs if one.name != row.name and other.shape == stored.shape] for row, stored in pairs
    ]
    return [some[rng.integers(len(some))] for some in strangers]


class Remembered:
    """A network whose maps are known."""

    name, binary, columns, device, batch_size = "openpose", False, {}, "cpu", 4
    provenance: Mapping[str, Any] = {"weights": {}}

    def __init__(self, network: str, known: Sequence[Row]) -> None:
        self.variant = VARIANTS[network]
        if network == "blaze":
            self.look = load_annotator("openpose:blaze").look  # type: ignore[attr-defined]
        self._maps = {_hash(decode(row.jpeg).rgb): row.maps[f"{network} again"] for row in known}

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        pictures = rgb.permute(0, 2, 3, 1).numpy()
        maps = np.stack([decode(self._maps[_hash(picture)]).rgb for picture in pictures])
        return Maps(torch.from_numpy(maps).permute(0, 3, 1, 2), {})


class AtHand(Weights):
    """Weights of which those are on disk that are said to be."""

    def __init__(self, networks: Sequence[str]) -> None:
        super().__init__(offline=True)
        self._networks = networks

    def locate(self, name: str) -> Path | None:
        return Path(name) if "dm14" in self._networks and name == BODY else None


def _hash(picture: Picture) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest()


def write(pairs: Sequence[tuple[Row, Picture]], maps: Sequence[Picture], folder: Path, built: bool) -> Path:
    """A dataset; built: with the records of a build beside it."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = [
        {
            "image": {"bytes": row.jpeg, "path": None},
            "pose": {"bytes": encode_map(np.ascontiguousarray(stored), binary=False), "path": None},
        }
        for (row, _), stored in zip(pairs, maps)
    ]
    pq.write_table(pa.Table.from_pylist(table, pa.schema({"image": image, "pose": image})), folder / "rows.parquet")
    if built:
        (folder / ".condprep").mkdir()
        (folder / ".condprep" / "provenance.json").write_text(json.dumps({"annotators": MADE}))
        (folder / ".condprep" / "plan.json").write_text(json.dumps(OPTIONS))
    return folder / "rows.parquet"


def alike(pairs: Sequence[tuple[Row, Picture]], maps: Sequence[Picture], network: str) -> str:
    """How many of the maps a network is recognised by, each alone."""
    again = (decode(row.maps[f"{network} again"]).rgb for row, _ in pairs)
    told = [same_drawing(found, np.ascontiguousarray(stored)) for found, stored in zip(again, maps)]
    return f"{told.count(True)} of {len(told) - told.count(None)} are {network}'s"


def measure(name: str, known: Sequence[Row], defects: Sequence[str]) -> None:
    """A line for each defect: rows with a finding, those of which nothing is known, what all share, and who is recognised."""
    one = SETS[name]
    pairs = [(row, decode(row.maps[one.drew]).rgb) for row in known if one.drew in row.maps]
    pairs = [(row, stored) for row, stored in pairs if stored.any()]
    networks = {f"openpose:{VARIANTS[network]}": Remembered(network, known) for network in one.at_hand}
    reannotate.load_annotator = lambda name, **_: networks.get(name) or next(iter(networks.values()))
    how: dict[str, Any] = {"annotator": "openpose"} if one.told == "user" else {}
    print(f"\n{name}: {len(pairs)} pairs of {len({row.name for row, _ in pairs})} photographs", flush=True)
    for defect in defects:
        maps = planted(pairs, defect)
        with tempfile.TemporaryDirectory() as folder:
            path = write(pairs, maps, Path(folder), one.told == "build")
            found = condprep.verify(path, checks=["alignment"], sample="all", weights=AtHand(one.at_hand), **how)
            verdicts = pq.read_table(found.scores, columns=["alignment"])["alignment"].to_pylist()
        alarms = {alarm.row for alarm in found.findings if alarm.rule not in ("out-of-step", "shared-shift")}
        shared = [alarm.reason for alarm in found.findings if alarm.rule == "shared-shift"]
        line = f"{len(alarms) / len(maps):7.1%}  unknown {verdicts.count('unknown'):3}"
        said = [*shared, *(note for note in found.notes if "look like" in note)]
        said += [] if one.told else [alike(pairs, maps, network) for network in one.at_hand]
        print(f"  {defect:10} {line}  {len(maps) / found.seconds:5.0f} rows/s  {'; '.join(said)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=9, help="of each photograph")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--defects", nargs="*", default=[*DEFECTS, WRONG], choices=[*DEFECTS, WRONG])
    parser.add_argument("--half", choices=["A", "B"], help="of the photographs; default: all")
    parser.add_argument("--pictures", type=Path, help="a folder of further photographs with people")
    default = Path(os.environ.get("TMPDIR", "/tmp")) / "condprep-poses"
    parser.add_argument("--cache", type=Path, default=default, help="where annotated crops are kept")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    chosen = sorted(photographs(options.pictures), key=lambda one: one[0])
    chosen = chosen[{"A": 0, "B": 1}[options.half] :: 2] if options.half else chosen
    known = [row for name, picture in chosen for row in rows(name, picture, options.crops, options.cache)]
    for name in options.sets:
        measure(name, known, options.defects)
