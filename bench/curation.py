"""What the curation checks find of planted copies and blur in real photographs, and how the search for lookalikes scales.

    python -m bench curation                      # the photographs of scikit-image and of CONDPREP_SHARED
    python -m bench curation --hashes 1000000     # the search alone, among that many pictures without lookalikes
    python -m bench curation --rows 10000 50000   # peak memory of `verify`: small pictures with captions of 2 kB

Each photograph is cut into square pieces that do not overlap, of at least 240 px, each enlarged or reduced to 512 x 512.
Blur is planted into the middles of the photographs at their own size. A copy is planted for each piece; found is one that is told as a repeat of its own original, a false alarm a row that is told to
repeat anything else. The pieces of one photograph share its light, colours and texture, and are the hard ones to tell apart.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from skimage import data

from bench import environment
from bench.verify import photographs
from condprep.dataset.pairs.open import Pair
from condprep.verification.check import Context
from condprep.verification.opened import Opened, OpenedPair
from condprep.verification.quality.checks import Blurred, measure
from condprep.verification.quality.duplicates import Lookalikes
from condprep.verification.quality.lookalikes import CROPS, grey_thumbnail, hashes, near_pairs, same_picture
from condprep.verification.quality.picture import greyed, quality
from condprep.verification.tokens import TokenCounter

SIDE, LEAST = 512, 240  # pixels
FURTHER = ("brick", "camera", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "retina")

Picture = np.ndarray  # (SIDE, SIDE, 3) uint8
Change = Callable[[Picture], Picture]


def coloured() -> list[np.ndarray]:
    """All photographs, (H, W, 3)."""
    found = [*photographs(), *(getattr(data, name)() for name in FURTHER)]
    return [np.dstack([one] * 3) if one.ndim == 2 else one[..., :3] for one in found]


def middles() -> list[np.ndarray]:
    """The middle of each photograph, up to 512 x 512, as sharp as it is: nothing is scaled."""
    found = []
    for picture in coloured():
        y, x = (max(0, (side - SIDE) // 2) for side in picture.shape[:2])
        found.append(np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE]))
    return found


def pieces() -> list[Picture]:
    """Square pieces of all photographs."""
    found = []
    for picture in coloured():
        height, width = picture.shape[:2]
        side = min(height, width) // max(1, min(height, width) // LEAST)
        found += [
            fitted(picture[y : y + side, x : x + side])
            for y in range(0, height - side + 1, side)
            for x in range(0, width - side + 1, side)
        ]
    return found


def fitted(piece: np.ndarray) -> Picture:
    smaller = piece.shape[0] > SIDE
    return cv2.resize(piece, (SIDE, SIDE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def crop(top: float, bottom: float, left: float, right: float) -> Change:
    """Shares of the side that are cut away."""

    def change(picture: Picture) -> Picture:
        y, x = round(top * SIDE), round(left * SIDE)
        return fitted(picture[y : round((1 - bottom) * SIDE), x : round((1 - right) * SIDE)])

    return change


def some_crop(share: float) -> Change:
    """`share` of both sides, divided between their ends at random."""
    rng = np.random.default_rng(0)

    def change(picture: Picture) -> Picture:
        down, across = rng.uniform(0, share, 2)
        return crop(down, share - down, across, share - across)(picture)

    return change


def brightness(factor: float, offset: float = 0) -> Change:
    return lambda picture: np.clip(picture * factor + offset, 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Change:
    def change(picture: Picture) -> Picture:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))

    return change


def blur(sigma: float) -> Change:
    return lambda picture: cv2.GaussianBlur(picture, (0, 0), sigma)


def motion(pixels: int) -> Change:
    return lambda picture: cv2.filter2D(picture, -1, np.full((1, pixels), 1 / pixels, np.float32))


def together(*changes: Change) -> Change:
    def change(picture: Picture) -> Picture:
        for one in changes:
            picture = one(picture)
        return picture

    return change


COPIES: Mapping[str, Change] = {
    "the same": lambda picture: picture,
    "crop 5 %, one side": crop(0, 0, 0.05, 0),
    "crop 5 %, a corner": crop(0.05, 0, 0.05, 0),
    "crop 5 %, anywhere": some_crop(0.05),
    "crop 5 % at each edge": crop(0.05, 0.05, 0.05, 0.05),
    "JPEG 40": jpeg(40),
    "brightness x 0.7": brightness(0.7),
    "brightness x 1.2": brightness(1.2),
    "brightness x 1.3": brightness(1.3),
    "brightness + 40": brightness(1.0, 40),
    "crop, x 1.2, JPEG 40": together(some_crop(0.05), brightness(1.2), jpeg(40)),
}
BLURS: Mapping[str, Change] = {
    "none (false alarms)": lambda picture: picture,
    **{f"blur {sigma} px": blur(sigma) for sigma in (1.5, 2, 3, 5)},
    **{f"motion {pixels} px": motion(pixels) for pixels in (9, 15)},
}


def seen(pictures: Sequence[Picture]) -> Lookalikes:
    """What `verify` remembers of them."""
    found = Lookalikes()
    for number, picture in enumerate(pictures):
        found.add({"split": None, "pixels": number + 1, "thumbnail": grey_thumbnail(greyed(picture)).tobytes()})
    return found


def copies(originals: Sequence[Picture]) -> None:
    count = len(originals)
    print(f"{'copy':24} rows   found  false alarms")
    for name, change in COPIES.items():
        repeats = seen([*originals, *map(change, originals)]).repeats
        right = {one.row for one in repeats if one.row - count == one.twin}
        wrong = len(repeats) - len(right)
        print(f"{name:24} {count:4} {len(right) / count:7.1%} {wrong / (2 * count):7.2%} ({wrong})", flush=True)


def strangers(each: int = 60) -> None:
    """Square crops of each photograph, anywhere and of any size from LEAST on: which pairs of different photographs match."""
    rng, photos = np.random.default_rng(1), coloured()
    thumbnails = []
    for picture in photos:
        for side in rng.integers(LEAST, min(picture.shape[:2]) + 1, each):
            y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
            thumbnails.append(grey_thumbnail(greyed(fitted(picture[y : y + side, x : x + side]))))
    stacked = np.array(thumbnails)
    pairs = near_pairs(hashes(stacked))
    alike = np.unique(np.sort(pairs[same_picture(stacked, pairs), :2], axis=1), axis=0)
    wrong = np.count_nonzero(alike[:, 0] // each != alike[:, 1] // each)
    total = each**2 * len(photos) * (len(photos) - 1) // 2
    print(f"\n{total:,} pairs of crops of different photographs: {wrong} taken for the same ({wrong / total:.4%})")


def blurs(originals: Sequence[Picture]) -> None:
    print(f"\n{'blur':24} rows   told")
    for name, change in BLURS.items():
        told = [Blurred()({"sharpness": quality(change(picture)).sharpness}) is not None for picture in originals]
        print(f"{name:24} {len(told):4} {np.mean(told):7.1%} ({sum(told)})", flush=True)


def cost(originals: Sequence[Picture]) -> None:
    """Milliseconds a row of the group's measurement, on one thread; the middle of all."""
    cv2.setNumThreads(1)
    context = Context(None, True, False, TokenCounter(None))
    spent = []
    for number, picture in enumerate(originals):
        pair = OpenedPair(
            Pair(number, "", caption=f"a photograph of a thing, number {number}"), Opened(rgb=picture), Opened()
        )
        began = time.perf_counter()
        measure(pair, context)
        spent.append(time.perf_counter() - began)
    print(f"\nmeasured in {1000 * np.median(spent):.2f} ms a row of {SIDE} x {SIDE} px")


def search(count: int) -> None:
    """Random hashes: no lookalikes, and so nothing but the search."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    codes = np.random.default_rng(0).integers(0, 1 << 64, (count, CROPS), np.uint64)
    began = time.perf_counter()
    pairs = near_pairs(codes)
    seconds = time.perf_counter() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    print(f"{count:,} pictures: {seconds:.0f} s, {len(pairs):,} candidates, {more:,.0f} MB", flush=True)


VERIFY = """
import sys, condprep
from condprep.runtime.malloc import keep_freed_memory
keep_freed_memory()
condprep.verify(sys.argv[1], checks=["structure", "curation"])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""  # prints its peak in kB; what getrusage says of a child is at least what its parent had


def memory(count: int) -> None:
    """What `condprep verify` does with `count` rows: pictures of noise, 16 x 16 px, and captions of 2 kB, all different."""
    rng = np.random.default_rng(0)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "canny": image, "text": pa.string()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, count, 1000):
                rows = [row(rng, number) for number in range(start, min(start + 1000, count))]
                writer.write_table(pa.Table.from_pylist(rows, schema))
        began = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-c", VERIFY, path], env=environment(), stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.perf_counter() - began
    peak = int(told.stdout) / 1000
    captions = count * 2000 / 1e6
    print(f"{count:,} rows, {captions:,.0f} MB of captions: {seconds:.0f} s, peak memory {peak:,.0f} MB", flush=True)


def row(rng: np.random.Generator, number: int) -> dict[str, Any]:
    words = " ".join(f"word{n}" for n in rng.integers(0, 1_000_000, 200))
    pictures = {"image": noise(rng, (16, 16, 3)), "canny": noise(rng, (16, 16)) // 128 * 255}
    encoded = {
        name: {"bytes": cv2.imencode(".png", pixels)[1].tobytes(), "path": None} for name, pixels in pictures.items()
    }
    return encoded | {"text": f"picture {number}: {words}"}


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description="what the curation checks find, and how the search scales")
    parser.add_argument("--hashes", type=int, nargs="*", default=[], help="pictures to search among")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="rows whose memory is measured")
    options = parser.parse_args()
    for count in options.hashes:
        search(count)
    for count in options.rows:
        memory(count)
    if not options.hashes and not options.rows:
        originals = pieces()
        copies(originals)
        strangers()
        blurs(middles())
        cost(originals)
