"""How far maps in half precision are from fp32's: grey levels, mean and 99.9 % of the pixels, and pixels that change.

    python -m bench precision [hed:tensor ...] [--weights DIR] [--pictures FILE ...] [--side 256] [--device cpu]

Any annotator that has a parameter `precision`, with the weights that it finds, so that nothing is said of random ones.
Default: hed:tensor on four photographs of scikit-image, the middle of each at side x side pixels. Of docs/decisions/0049 the
limit is a mean below 1 and 99.9 % within 8; where maps have two or three levels, the share of pixels that change counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from condprep import load_annotator
from condprep.weights.find import Weights

HALF = ("bf16", "fp16")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def squares(files: Sequence[Path], side: int) -> torch.Tensor:
    """(B, 3, side, side) uint8 RGB: the middle square of each picture, made larger or smaller."""
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files] or [
        getattr(data, name)() for name in PHOTOGRAPHS
    ]
    made = []
    for rgb in pictures:
        short = min(rgb.shape[:2])
        top, left = ((length - short) // 2 for length in rgb.shape[:2])
        middle = np.ascontiguousarray(rgb[top : top + short, left : left + short])
        made.append(cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def maps(name: str, precision: str, rgb: torch.Tensor, device: str, weights: Weights) -> torch.Tensor:
    """Each picture's by itself, as float32 on the host."""
    annotator = load_annotator(name, device=device, params={"precision": precision}, weights=weights)
    keys = [sha256(bytes([number])).hexdigest() for number in range(len(rgb))]
    made = [annotator(one.to(annotator.device), [key]).maps for one, key in zip(rgb.split(1), keys)]
    return torch.cat(made).cpu().float()


def apart(exact: torch.Tensor, half: torch.Tensor) -> tuple[float, float, float]:
    """Levels, mean and of 99.9 % of the values, and the share of pixels of which any value is another one."""
    levels = (half - exact).abs()
    return (
        float(levels.mean()),
        float(np.quantile(levels.numpy(), 0.999, method="higher")),
        float((levels > 0).any(1).float().mean()),
    )


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("annotators", nargs="*", default=["hed:tensor"])
    reader.add_argument("--weights", type=Path)
    reader.add_argument("--pictures", type=Path, nargs="*", default=[])
    reader.add_argument("--side", type=int, default=256)
    reader.add_argument("--device", default="cpu")
    options = reader.parse_args()
    weights, rgb = Weights(options.weights), squares(options.pictures, options.side)
    table = Table("annotator", "precision", "mean", "99.9 %", "pixels that change", box=None)
    for name in options.annotators:
        exact = maps(name, "fp32", rgb, options.device, weights)
        for precision in HALF:
            mean, most, share = apart(exact, maps(name, precision, rgb, options.device, weights))
            table.add_row(name, precision, f"{mean:.2f}", f"{most:.0f}", f"{share:.2%}")
    Console(width=100).print(table)
