"""Recall and false alarms of the alignment checks of `condprep verify`, through `verify` itself.

    python bench/verify_alignment.py [--kinds canny hed pose depth] [--rows 504] [--hed-weights DIR]

Pairs are crops of scikit-image's photographs and of the shared test data, in an order in which neighbours are of different
photographs; pictures are stored as JPEG (quality 95), maps were made of the pixels before. A defect is planted into every
row of a copy; an alarm is a row with a finding. `known` names the annotator, `picture` does not; of poses `known` is openpose:blaze,
stored as PNG or as JPEG, and `picture` are maps that another network drew. Depth is measured, not annotated: crops of
scikit-image's stereo pair and of an RGB-D recording of the shared data. What was made of a picture again is remembered from
one copy to the next.
"""

from __future__ import annotations

import argparse
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
from comparison import Picture, annotate, canny_at_random, cut, depth_pairs, other_network, photographs, windows

import condprep
from condprep.annotators import load_annotator
from condprep.annotators.base import Annotator
from condprep.checks import again
from condprep.checks.registration import unscaled
from condprep.types import Maps
from condprep.weights import Weights

Plant = Callable[[Picture, np.random.Generator], Picture]
SIDE = 512  # pixels
PEOPLE = ("0000", "astronaut")  # how the names of photographs with people begin


@dataclass(frozen=True)
class Set:
    """Clean pairs, and what `verify` is told of them."""

    title: str
    column: str
    pairs: Sequence[tuple[str, bytes, Picture]]  # photograph, encoded picture, map
    how: Mapping[str, Any]


def crops(count: int, names: Sequence[str] = ("",)) -> list[tuple[str, Picture]]:
    """At least `count` crops; neighbours are of different photographs."""
    chosen = [(name, picture) for name, picture in photographs(None) if name.startswith(tuple(names))]
    each = -(-count // len(chosen))
    cuts = {name: list(squares(name, picture, each)) for name, picture in chosen}
    return [(name, cuts[name][n]) for n in range(each) for name, _ in chosen]


def squares(name: str, picture: Picture, count: int) -> Iterator[Picture]:
    """Square crops at SIDE; of one shape, so that a strange map is told by what it shows."""
    for y, x, h, w, *_ in windows(name, *picture.shape[:2], count):
        yield cut(picture, (y, x, min(h, w), min(h, w), SIDE, SIDE))


def moved(stored: Picture, rng: np.random.Generator, by: int) -> Picture:
    """Shifted by so many pixels along one axis or both; what comes in is black."""
    dx, dy = [(by, 0), (-by, 0), (0, by), (0, -by), (by, -by), (-by, by)][rng.integers(6)]
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
    "scale 5 %": partial(scaled, by=0.05),
}


def columns(pairs: Sequence[tuple[str, bytes, Picture]]) -> Iterator[tuple[str, list[Picture]]]:
    """(defect, the maps of all rows)."""
    maps = [stored for _, _, stored in pairs]
    for defect, plant in DEFECTS.items():
        rng = np.random.default_rng(1)
        yield defect, [plant(stored, rng) for stored in maps]
    rng, names = np.random.default_rng(2), [name for name, _, _ in pairs]
    strangers = [[stored for other, stored in zip(names, maps) if other != name] for name in names]
    yield "wrong map", [some[rng.integers(len(some))] for some in strangers]
    half = len(maps) // 2
    yield "off by one", maps[:half] + maps[half + 1 :] + maps[-1:]
    yield "shuffled", [maps[n] for n in np.random.default_rng(3).permutation(len(maps))]


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


def measure(one: Set) -> None:
    """A line for each defect: rows with a finding, those of which nothing is known, runs out of step, rows a second."""
    pairs = told(one.pairs)
    print(f"\n{one.title}: {len(pairs)} pairs", flush=True)
    for defect, maps in columns(pairs):
        with tempfile.TemporaryDirectory() as folder:
            path = write(pairs, maps, one.column, Path(folder))
            found = condprep.verify(path, checks=["alignment"], sample="all", weights=Weights(offline=True), **one.how)
            verdicts = pq.read_table(found.scores, columns=["alignment"])["alignment"].to_pylist()
        alarms = {finding.row for finding in found.findings if finding.rule != "out-of-step"}
        runs = [finding.reason for finding in found.findings if finding.rule == "out-of-step"]
        line = f"{len(alarms) / len(maps):7.1%}  unknown {verdicts.count('unknown'):3}"
        print(f"  {defect:11} {line}  {len(maps) / found.seconds:5.0f} rows/s  {'; '.join(runs)}", flush=True)


class Remembering:
    """An annotator that looks at each picture once."""

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator
        self.known: dict[bytes, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.annotator, name)

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        for picture in rgb:
            if picture.numpy().tobytes() not in self.known:
                self.known[picture.numpy().tobytes()] = self.annotator(picture[None], keys[:1]).maps[0]
        return Maps(torch.stack([self.known[picture.numpy().tobytes()] for picture in rgb]), {})


@cache
def remembering(name: str, folder: Path | None) -> Remembering:
    params = {"precision": "bf16"} if name.startswith("hed") else None
    return Remembering(load_annotator(name, params=params, weights=Weights(folder)))


def sets(options: argparse.Namespace) -> Iterator[Set]:
    photos = crops(options.rows)
    if "canny" in options.kinds:
        yield Set(
            "canny, known", "canny", [(n, jpeg(p), cv2.Canny(p, 100, 200)) for n, p in photos], {"annotator": "canny"}
        )
        yield Set("canny:random, picture", "canny", [(n, jpeg(p), canny_at_random(p)) for n, p in photos], {})
    if "hed" in options.kinds:
        name = "hed" if options.hed_weights else "hed:tensor"
        soft = [
            (n, jpeg(p), annotate(remembering(name, options.hed_weights), p)) for n, p in photos[: options.rows // 2]
        ]
        yield Set("hed, known", "hed", soft, {"annotator": name})
        yield Set("hed, picture", "hed", soft, {})
    if "depth" in options.kinds:
        scenes = [one for one in depth_pairs(options.rows // 3) if one[1].shape[:2] == (SIDE, SIDE)]
        depth = [(n, jpeg(p), m) for n, p, m in scenes if not n.startswith("TUM")]
        yield Set("depth, picture", "depth", [depth[n] for n in np.random.default_rng(0).permutation(len(depth))], {})
    if "pose" in options.kinds:
        people = crops(options.rows // 5, PEOPLE)
        blaze, other = remembering("openpose:blaze", None), other_network()
        drawn = [(n, p, annotate(blaze, p)) for n, p in people]
        yield Set("pose, known, PNG", "pose", [(n, png(p), m) for n, p, m in drawn], {"annotator": "openpose:blaze"})
        yield Set("pose, known, JPEG", "pose", [(n, jpeg(p), m) for n, p, m in drawn], {"annotator": "openpose:blaze"})
        foreign = [(n, jpeg(p), annotate(other, p)) for n, p in people]
        yield Set("pose, picture", "pose", foreign, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=["canny", "depth", "hed", "pose"])
    parser.add_argument("--rows", type=int, default=504)
    parser.add_argument("--hed-weights", type=Path)
    options = parser.parse_args()
    original = again.load_annotator
    again.load_annotator = lambda name, **how: (
        remembering(name, options.hed_weights) if name != "canny" else original(name)
    )
    for one in sets(options):
        measure(one)


if __name__ == "__main__":
    main()
