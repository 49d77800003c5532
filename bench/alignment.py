"""How well misaligned pairs are told: recall and false alarms per defect and kind of condition map, and pairs a second.

    python -m bench alignment [--crops 5] [--hed 1] [--hed-weights DIR] [--pose] [--pictures DIR] [--threads 2]

Defects are planted into pairs made of scikit-image's photographs and those of the shared test data, several crops of each.
`known` compares with the map made again from the picture as JPEG (quality 95); `picture` has the picture alone. Empty
maps are left out; pairs that say too little count neither as found nor as missed, but are listed as unknown. Thresholds were read from the
scores of these photographs; `--pictures DIR` measures with others, which no threshold has seen.

Depth is measured, not annotated: two RGB-D pairs of the shared data and scikit-image's stereo pair, their holes filled.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from bench import SHARED
from condprep import load_annotator
from condprep.annotators.protocol import Annotator
from condprep.verification.alignment.comparison import Alignment, compare, compare_picture
from condprep.verification.alignment.registration import unscaled
from condprep.verification.poses.comparison import compare_poses
from condprep.weights.find import Weights

PHOTOS = "astronaut brick camera cell chelsea coffee coins grass gravel hubble_deep_field immunohistochemistry moon page retina rocket text"
SHAPES = ((512, 512), (512, 512), (448, 576), (576, 448), (512, 512))

Picture = np.ndarray
Pair = tuple[str, Picture, Picture]  # name of the photograph, what a check takes first, the map
Check = Callable[[Picture, Picture], Alignment]


def photographs(folder: Path | None) -> Iterator[tuple[str, Picture]]:
    """(name, (H, W, 3) uint8) of every photograph in a folder, or of all that are at hand."""
    for name in [] if folder else PHOTOS.split():
        yield name, np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    folders = [folder] if folder else [SHARED / "data" / "edges", SHARED / "data" / "people"]
    for path in sorted(path for each in folders for path in each.glob("*.jpg")):
        yield path.stem, np.asarray(Image.open(path).convert("RGB"))


def windows(name: str, height: int, width: int, count: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(y, x, h, w) to cut and (H, W) to resize to: all that fits at first, then random parts down to half the size."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for number in range(count):
        tall, wide = SHAPES[number % len(SHAPES)]
        scale = min(height / tall, width / wide) * (1.0 if number == 0 else rng.uniform(0.5, 1))
        h, w = int(tall * scale), int(wide * scale)
        yield int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w, tall, wide


def cut(picture: Picture, window: tuple[int, int, int, int, int, int]) -> Picture:
    y, x, h, w, height, width = window
    method = cv2.INTER_AREA if h > height else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(picture[y : y + h, x : x + w]), (width, height), interpolation=method)


def crops(folder: Path | None, count: int) -> Iterator[tuple[str, Picture]]:
    for name, picture in photographs(folder):
        for window in windows(name, *picture.shape[:2], count):
            yield name, cut(picture, window)


def depth_pairs(count: int) -> Iterator[tuple[str, Picture, Picture]]:
    """(name, picture, inverse depth as grey)."""
    folder = SHARED / "data"
    left, _, disparity = data.stereo_motorcycle()
    scenes = [("motorcycle", left, np.where(np.isfinite(disparity), disparity, 0))]
    for colour, depth in (("TUM_color.png", "TUM_depth.png"), ("color_00000.jpg", "depth_00000.png")):
        if (folder / "depth" / colour).exists():
            metres = np.asarray(Image.open(folder / "depth" / depth)).astype(np.float64)
            near = np.where(metres > 0, 1 / np.maximum(metres, 1), 0)
            scenes.append((colour, np.asarray(Image.open(folder / "depth" / colour).convert("RGB")), near))
    for name, picture, near in scenes:
        grey = (np.clip(near / np.percentile(near, 99.5), 0, 1) * 255).astype(np.uint8)
        grey = cv2.inpaint(grey, cv2.dilate((near <= 0).astype(np.uint8), np.ones((3, 3))), 3, cv2.INPAINT_TELEA)
        for window in windows(name, *grey.shape, count):
            yield name, cut(picture, window), cut(grey, window)


def jpeg(picture: Picture) -> Picture:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR)


def shift(dx: int, dy: int) -> Callable[[Picture], Picture]:
    """Moves a map to the right and down; what comes in is black."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return lambda stored: cv2.warpAffine(stored, matrix, stored.shape[1::-1], flags=cv2.INTER_NEAREST)


DEFECTS: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda stored: stored,
    "shift 2": shift(2, 0),
    "shift 4": shift(0, -4),
    "shift 8": shift(-8, 8),
    "flip horizontally": lambda stored: stored[:, ::-1],
    "flip vertically": lambda stored: stored[::-1],
    "turn 90": np.rot90,
    "scale 2 %": lambda stored: unscaled(stored, 1 / 1.02),
    "scale 5 %": lambda stored: unscaled(stored, 1.05),
    "crop 80 %": lambda stored: cv2.resize(
        stored[20 : 20 + stored.shape[0] * 4 // 5, 40 : 40 + stored.shape[1] * 4 // 5], stored.shape[1::-1]
    ),
}


def measure(pairs: list[Pair], check: Check, threads: int) -> tuple[dict[str, str], float]:
    """Alarms per defect, and right pairs a second in so many threads."""
    rng = np.random.default_rng(0)
    strangers = [[stored for other, _, stored in pairs if other != name] for name, _, _ in pairs]
    planted = {
        defect: [np.ascontiguousarray(plant(stored)) for _, _, stored in pairs] for defect, plant in DEFECTS.items()
    }
    planted["wrong map"] = [some[rng.integers(len(some))] for some in strangers]
    pictures, cells, seconds = [picture for _, picture, _ in pairs], {}, []
    with ThreadPoolExecutor(threads) as pool:
        for defect, maps in planted.items():
            start = time.perf_counter()
            cells[defect] = cell(list(pool.map(check, pictures, maps)))
            seconds.append(time.perf_counter() - start)
    return cells, len(pairs) / seconds[0]


def cell(found: list[Alignment]) -> str:
    """Alarms in percent of those that are not unknown, and how many are."""
    known = [alignment for alignment in found if alignment.verdict != "unknown"]
    share = 100 * np.mean([alignment.wrong for alignment in known]) if known else float("nan")
    unknown = len(found) - len(known)
    return f"{share:.1f}" + (f" ({unknown} unknown)" if unknown else "")


def annotate(annotator: Annotator, picture: Picture) -> Picture:
    """The map (H, W) or (H, W, 3) of a picture."""
    rgb = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    return annotator(rgb, ["0" * 64]).maps[0].permute(1, 2, 0).squeeze(-1).numpy()


def soft_edges(weights: Path | None) -> Annotator:
    name = "hed" if weights else "hed:tensor"
    return load_annotator(name, weights=Weights(weights), params={"precision": "bf16"})


def canny_at_random(picture: Picture) -> Picture:
    low, high = sorted(np.random.default_rng(zlib.crc32(picture.tobytes())).integers(1, 256, 2).tolist())
    return cv2.Canny(picture, low, high)


def other_network() -> Annotator:
    """The MobileNet of the tests in the place of the CMU network."""
    from support.openpose_dm14 import DM14, HEIGHT

    from condprep.annotators.openpose.annotator import Openpose

    return Openpose(DM14(), device="cpu", height=HEIGHT, variant="dm14")


def experiments(options: argparse.Namespace) -> Iterator[tuple[str, list[Pair], Check]]:
    """(title, pairs, check). The first of a pair is what the check takes first: a picture or a map made again."""
    photos = list(crops(options.pictures, options.crops))
    canny = [(name, picture, cv2.Canny(picture, 100, 200)) for name, picture in photos]
    drawn = [(name, picture, canny_at_random(picture)) for name, picture in photos]
    depth = [(name, jpeg(p), m) for name, p, m in depth_pairs(4 * options.crops)]
    yield "canny, known", [(n, cv2.Canny(jpeg(p), 100, 200), m) for n, p, m in canny], compare
    yield "canny, picture", [(n, jpeg(p), m) for n, p, m in canny], kind("canny")
    yield "canny:random, picture", [(n, jpeg(p), m) for n, p, m in drawn], kind("canny")
    yield "depth, picture", depth, kind("depth")
    if options.hed:
        annotator = soft_edges(options.hed_weights)
        some = list(crops(options.pictures, options.hed))
        hed = [(name, picture, annotate(annotator, picture)) for name, picture in some]
        yield "hed, known", [(n, annotate(annotator, jpeg(p)), m) for n, p, m in hed], compare
        yield "hed, picture", [(n, jpeg(p), m) for n, p, m in hed], kind("softedge")
    if options.pose:
        blaze, other = load_annotator("openpose:blaze"), other_network()
        poses = [
            (n, p, annotate(blaze, p))
            for n, p in photos
            if options.pictures or n.startswith("0000") or n == "astronaut"
        ]
        yield "openpose:blaze, same file", [(n, annotate(blaze, p).copy(), m) for n, p, m in poses], compare_poses
        yield "openpose:blaze, JPEG", [(n, annotate(blaze, jpeg(p)), m) for n, p, m in poses], compare_poses
        yield "another network", [(n, m, annotate(other, p)) for n, p, m in poses], compare_poses


def kind(name: str) -> Check:
    return lambda picture, stored: compare_picture(picture, stored, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=5, help="of each photograph")
    parser.add_argument("--hed", type=int, default=0, help="crops of each photograph for soft edges (seconds each)")
    parser.add_argument("--hed-weights", type=Path, help="a folder with ControlNetHED.pth; default: hed:tensor")
    parser.add_argument("--pose", action="store_true", help="poses too (seconds each)")
    parser.add_argument("--pictures", type=Path, help="a folder of other photographs (.jpg)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    cv2.setNumThreads(options.threads)
    table = Table("alarms in %", *DEFECTS, "wrong map", "pairs", "pairs/s")
    for title, annotated, check in experiments(options):
        pairs = [pair for pair in annotated if pair[2].any()]  # an empty map fits any way
        cells, speed = measure(pairs, check, options.threads)
        table.add_row(title, *cells.values(), str(len(pairs)), f"{speed:.0f}")
        Console(stderr=True).print(title, cells)
    Console(width=200).print(table)
