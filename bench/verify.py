"""Recall and false alarms of `condprep verify`, and its speed: defects planted into clean pairs of real photographs.

    python -m bench verify                        # the photographs of scikit-image and of CONDPREP_SHARED
    python -m bench verify --kinds canny pose
    python -m bench verify --speed --rows 400     # rows a second alone, and pairs a second of an import

Clean pairs are 512 x 512 crops with the maps that condprep's annotators make of them; poses are drawn from COCO's
keypoints, depth and normals come from RGB-D recordings. Each defect is planted into every row of a copy, once in a
dataset whose column says the kind of its maps and once in one that does not say it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from bench.coco import body_of
from condprep.annotators.openpose.draw import draw_bodies
from condprep.runtime.malloc import keep_freed_memory
from condprep.weights.find import Weights

DATA = SHARED / "data"
SIDE, LARGE = 512, 640  # pixels: of a crop, and of the shorter side of what it is cut from

Row = dict[str, Any]
Change = Callable[[np.ndarray], np.ndarray]


def photographs() -> list[np.ndarray]:
    files = [*sorted(DATA.glob("edges/*.jpg")), *sorted(DATA.glob("people/*.jpg"))]
    pictures = [np.array(Image.open(file).convert("RGB")) for file in files]
    return [*pictures, data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def enlarged(picture: np.ndarray) -> np.ndarray:
    """The picture with a short side of LARGE pixels."""
    scale = LARGE / min(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def crops(picture: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`count` crops of SIDE, each at another place, half of them mirrored."""
    for number in range(count):
        y, x = (int(rng.integers(0, side - SIDE + 1)) for side in picture.shape[:2])
        crop = picture[y : y + SIDE, x : x + SIDE]
        yield np.ascontiguousarray(crop[:, ::-1] if number % 2 else crop)


def annotated(name: str) -> Callable[[np.ndarray], np.ndarray]:
    annotator = condprep.load_annotator(name)

    def run(picture: np.ndarray) -> np.ndarray:
        rgb = torch.from_numpy(picture).permute(2, 0, 1)[None]
        return np.asarray(annotator(rgb, ["bench"]).maps[0, 0])

    return run


def drawn_pose(rng: np.random.Generator) -> np.ndarray:
    """One to four of COCO's people, each at another place and of another size."""
    listed = json.loads((DATA / "people/test_coco.json").read_text())["annotations"]
    people = [one["keypoints"] for one in listed if one["num_keypoints"] > 5]
    bodies = []
    for _ in range(rng.integers(1, 5)):
        points = np.array(people[rng.integers(len(people))], float).reshape(17, 3)
        seen = points[:, 2] > 0
        low, high = points[seen, :2].min(0), points[seen, :2].max(0)
        size = rng.uniform(100, 450)
        points[:, :2] = (points[:, :2] - low) / (high - low).max() * size + rng.uniform(0, SIDE - size / 2, 2)
        bodies.append(body_of(points))
    return draw_bodies(bodies, SIDE, SIDE)


def recorded_depth() -> list[tuple[np.ndarray, np.ndarray]]:
    """(picture, near-is-white depth (H, W) uint8) of the RGB-D pairs; holes filled."""
    pairs = []
    for colour, depth in (("TUM_color.png", "TUM_depth.png"), ("color_00000.jpg", "depth_00000.png")):
        raw = cv2.imread(str(DATA / "depth" / depth), cv2.IMREAD_UNCHANGED).astype(np.float32)
        inverse = np.where(raw > 0, 1 / np.maximum(raw, 1), 0)
        inverse = np.clip(inverse / np.percentile(inverse, 99.5) * 255, 0, 255).astype(np.uint8)
        filled = cv2.inpaint(inverse, (raw == 0).astype(np.uint8), 5, cv2.INPAINT_TELEA)
        picture = np.array(Image.open(DATA / "depth" / colour).convert("RGB"))
        pairs.append((cv2.resize(picture, raw.shape[::-1]), cv2.bilateralFilter(filled, 9, 20, 5)))
    return pairs


def normals(depth: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(depth.astype(np.float32) / 255, (0, 0), 2)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1))]
    vectors = np.stack([slopes[0] * 8, slopes[1] * 8, np.ones_like(smooth)], -1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) * 127.5 + 127.5, np.uint8)


def clean(kind: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """About `count` (picture, map)."""
    rng = np.random.default_rng(0)
    if kind in ("depth", "normal"):
        stacked = [np.dstack(pair) for pair in recorded_depth()]
    elif kind == "pose":
        stacked = photographs()
    else:
        make = annotated({"softedge": "hed:tensor"}.get(kind, kind))
        stacked = [np.dstack([picture, make(picture)]) for picture in map(enlarged, photographs())]
    cut = [
        crop
        for one in stacked
        for crop in crops(enlarged(one) if kind in ("depth", "normal", "pose") else one, -(-count // len(stacked)), rng)
    ]
    finish = {"depth": lambda crop: crop[..., 3], "normal": lambda crop: normals(crop[..., 3])}
    finish["pose"] = lambda _: drawn_pose(rng)
    return [(crop[..., :3].copy(), np.ascontiguousarray(finish.get(kind, finish["depth"])(crop))) for crop in cut]


def encoded(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    fast = {"compress_level": 1} if format == "PNG" else {}
    Image.fromarray(pixels).save(file, format, **fast, **options)
    return file.getvalue()


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    return decoded({"bytes": encoded(pixels, "JPEG", quality=85)})


def decoded(stored: Row) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(stored["bytes"])))


def resized(side: int) -> Change:
    """The map at another size and back, by bilinear interpolation."""

    def change(pixels: np.ndarray) -> np.ndarray:
        return cv2.resize(cv2.resize(pixels, (side, side)), (SIDE, SIDE))

    return change


def turned(pixels: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(pixels, "PNG", exif=exif)


DRAWN = ("canny", "pose")  # nothing between the levels, or colours, that are drawn
MAP_DEFECTS: Mapping[
    str, tuple[Callable[[np.ndarray], np.ndarray | bytes], Sequence[str]]
] = {  # change, kinds (none: all)
    "map inverted": (lambda m: 255 - m, ("canny", "softedge", "pose", "normal")),
    "map resized 384": (resized(384), DRAWN),
    "map resized 768": (resized(768), DRAWN),
    "map saved as JPEG": (lambda m: encoded(m, "JPEG", quality=85), DRAWN),
    "map went through JPEG": (through_jpeg, DRAWN),
    "map constant": (lambda m: np.full_like(m, 37), ()),
    "map black": (np.zeros_like, ()),
    "map in 0..1": (lambda m: m // 255, ()),
    "map of another size": (lambda m: m[:504, :504], ()),
    "map of another shape": (lambda m: m[:480], ()),
    "map cut off": (lambda m: encoded(m)[:-400], ()),
    "map turned by EXIF": (turned, ()),
    "map in 16 bits": (lambda m: encoded((m if m.ndim == 2 else m[..., 0]).astype(np.uint16) * 257), ()),
    "map with alpha": (
        lambda m: np.dstack([m if m.ndim == 3 else np.dstack([m] * 3), np.full(m.shape[:2], 200, np.uint8)]),
        (),
    ),
}
ROW_DEFECTS: Mapping[str, Callable[[Row], Row]] = {
    "picture as map": lambda row: row | {"map": cell(through_jpeg(decoded(row["image"])))},
    "picture cut off": lambda row: row | {"image": {"bytes": row["image"]["bytes"][:-900], "path": None}},
    "caption null": lambda row: row | {"text": None},
    "caption too long": lambda row: row | {"text": "a small wooden house, " * 30},
}


def cell(pixels: np.ndarray | bytes) -> Row:
    return {"bytes": pixels if isinstance(pixels, bytes) else encoded(pixels), "path": None}


def write(rows: Sequence[Row], folder: Path, column: str) -> Path:
    """A Parquet dataset whose maps are in a column of that name."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "text": pa.string(), column: image})
    pq.write_table(pa.Table.from_pylist([row | {column: row["map"]} for row in rows], schema), folder / "rows.parquet")
    return folder / "rows.parquet"


def flagged(rows: Sequence[Row], column: str) -> tuple[int, list[str]]:
    """How many rows have a finding, and the rules that were broken."""
    with tempfile.TemporaryDirectory() as folder:
        result = condprep.verify(
            write(rows, Path(folder), column), checks=["structure", "condition"], weights=Weights(offline=True)
        )
    found = {finding.row for finding in result.findings}
    return len(found), sorted({finding.rule for finding in result.findings})


def planted(
    kind: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], rows: Sequence[Row], other: Sequence[np.ndarray]
) -> Iterator[tuple[str, Sequence[Row]]]:
    """(defect, rows that all have it)."""
    for name, (change, kinds) in MAP_DEFECTS.items():
        if not kinds or kind in kinds:
            yield name, [row | {"map": cell(change(pair[1]))} for row, pair in zip(rows, pairs)]
    for name, alter in ROW_DEFECTS.items():
        yield name, [alter(row) for row in rows]
    yield "map of another kind", [row | {"map": cell(one)} for row, one in zip(rows, other)]


def main() -> None:
    parser = argparse.ArgumentParser(description="what `condprep verify` finds of planted defects")
    parser.add_argument("--speed", action="store_true", help="the speed alone")
    parser.add_argument("--kinds", nargs="*", default=["canny", "softedge", "pose", "depth", "normal"])
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.speed:
        speed(options.rows)
        return
    sets = {kind: clean(kind, options.rows) for kind in options.kinds}
    print(f"{'maps':9} {'defect':22} rows  kind said  not said  rules")
    for number, (kind, pairs) in enumerate(sets.items()):
        other = [m for _, m in sets[options.kinds[number - 1]]] if len(sets) > 1 else [p for p, _ in pairs]
        rows = [
            {"image": cell(encoded(p, "JPEG", quality=92)), "text": f"photograph {n}", "map": cell(m)}
            for n, (p, m) in enumerate(pairs)
        ]
        for defect, altered in [("none (false alarms)", rows), *planted(kind, pairs, rows, other)]:
            said, rules = flagged(altered, kind)
            unsaid, more = flagged(altered, "conditioning_image")
            found = sorted({*rules, *more})
            shares = f"{said / len(altered):9.1%} {unsaid / len(altered):9.1%}"
            print(f"{kind:9} {defect:22} {len(altered):4}  {shares}  {' '.join(found)}", flush=True)
    speed(options.rows)


CHOICES: Mapping[str, Sequence[str]] = {  # what is timed: checks
    "structure, condition": ("structure", "condition"),
    "and alignment without maps made again": ("structure", "condition", "alignment"),
    "all checks without maps made again": (),
}


def speed(count: int) -> None:
    """Rows a second of a dataset that `condprep build` made, the start included, as in the command; the best of three."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        for number, (picture, _) in enumerate(clean("canny", count)):
            Image.fromarray(picture).save(raw / f"{number:04d}.jpg", quality=92)
        condprep.build(raw, Path(folder) / "ds", "canny")
        for title, checks in CHOICES.items():
            results = [condprep.verify(Path(folder) / "ds", checks=checks, sample=0) for _ in range(3)]
            print(f"{title:40} {max(result.rows / result.seconds for result in results):5.0f} rows/s", flush=True)
        print(f"{'import of pairs':40} {import_speed(raw, Path(folder)):5.0f} pairs/s", flush=True)


def import_speed(raw: Path, folder: Path) -> float:
    """Pairs a second of `condprep build PAIRED_FOLDER`, its checks and its start included; the best of three."""
    for name in ("image", "condition"):
        (folder / "pairs" / name).mkdir(parents=True)
    for path in raw.iterdir():
        shutil.copy(path, folder / "pairs/image")
        edges = cv2.Canny(np.array(Image.open(path)), 100, 200)
        Image.fromarray(edges).save(folder / "pairs/condition" / f"{path.stem}.png")
    seconds = []
    for run in range(3):
        began = time.perf_counter()
        result = condprep.build(folder / "pairs", folder / f"imported {run}")
        seconds.append(time.perf_counter() - began)
    return sum(result.rows.values()) / min(seconds)
