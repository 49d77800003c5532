"""How well soft edges find the boundaries that people drew: F at the best threshold on BSDS500 pictures.

    python -m bench edge-quality [hed:tensor ...] [--weights DIR] [--folder DIR] [--device cpu]

DIR holds pictures (.jpg) and their boundaries (.mat, groundTruth of several people); default: those of the shared test
data. After Martin, Fowlkes and Malik 2004 as it is used for BSDS500, with differences that make it no figure to compare
with published ones: the map is thinned to the ridges along its gradient, cut at 15 thresholds, and its pixels are matched
one to one with each person's within 0.0075 of the diagonal, the nearest pairs first, where the original asks for the
matching of the least sum of distances. A pixel is right if any person has it; recall counts the pixels of all people.
ODS: one threshold for all pictures. OIS: the best one for each. Twenty pictures tell a good detector from a bad one and
no more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.io import loadmat
from scipy.spatial import cKDTree
from skimage.morphology import thin

from bench import SHARED
from condprep import load_annotator
from condprep.annotators.protocol import Annotator
from condprep.weights.find import Weights

TOLERANCE = 0.0075  # of the diagonal
THRESHOLDS = np.linspace(16, 240, 15)  # grey levels


def ridges(edges: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (H, W) float32: zero where a neighbour one pixel across the edge is larger."""
    value = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 1)
    smooth = cv2.GaussianBlur(value, (0, 0), 3)
    xx, xy, yy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=5) for order in ((2, 0), (1, 1), (0, 2)))
    across = np.arctan2(2 * xy, xx - yy) / 2 + np.pi / 2  # the direction of the strongest (negative) curvature
    y, x = np.indices(edges.shape, dtype=np.float32)
    dx, dy = np.cos(across).astype(np.float32), np.sin(across).astype(np.float32)
    sides = [
        cv2.remap(value, x + s * dx, y + s * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for s in (-1, 1)
    ]
    return np.where(value * 1.01 >= np.maximum(*sides), value, 0)


def matched(found: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W) bool -> which of the pixels of each (in raster order) have a partner in the other."""
    a, b = np.argwhere(found), np.argwhere(drawn)
    hits = np.zeros(len(a), bool), np.zeros(len(b), bool)
    if not len(a) or not len(b):
        return hits
    pairs = cKDTree(a).sparse_distance_matrix(cKDTree(b), TOLERANCE * np.hypot(*found.shape), output_type="coo_matrix")
    nearest = np.argsort(pairs.data, kind="stable")
    for i, j in zip(pairs.row[nearest].tolist(), pairs.col[nearest].tolist()):
        if not hits[0][i] and not hits[1][j]:
            hits[0][i] = hits[1][j] = True
    return hits


def counts(edges: np.ndarray, people: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int, int]]:
    """For each threshold: pixels found, those of them that are right, pixels drawn, those of them that were found."""
    thinned = ridges(edges)
    for threshold in THRESHOLDS:
        found = thin(thinned >= threshold)
        pairs = [matched(found, drawn) for drawn in people]
        right = np.any([hits for hits, _ in pairs], axis=0)
        yield int(found.sum()), int(right.sum()), sum(len(b) for _, b in pairs), sum(int(b.sum()) for _, b in pairs)


def f_score(table: np.ndarray) -> np.ndarray:
    """(..., 4) counts -> F, the harmonic mean of precision and recall."""
    precision = table[..., 1] / np.maximum(table[..., 0], 1)
    recall = table[..., 3] / np.maximum(table[..., 2], 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-9)


def measure(annotator: Annotator, folder: Path) -> tuple[float, float, float]:
    """ODS F, its threshold in grey levels, OIS F."""
    tables = []
    for path in sorted(folder.glob("*.jpg")):
        rgb = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
        edges = annotator(rgb.to(annotator.device), [path.stem]).maps[0, 0].cpu().numpy()
        truth = loadmat(path.with_suffix(".mat"))["groundTruth"][0]
        tables.append(list(counts(edges, [person["Boundaries"][0, 0] > 0 for person in truth])))
    scores = np.array(tables, dtype=float)  # (pictures, thresholds, 4)
    overall = f_score(scores.sum(0))
    best_each = scores[np.arange(len(scores)), f_score(scores).argmax(1)]
    return float(overall.max()), float(THRESHOLDS[overall.argmax()]), float(f_score(best_each.sum(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description="F of soft edges on BSDS500 pictures")
    parser.add_argument("names", nargs="*", default=["hed"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--folder", type=Path, default=SHARED / "data" / "edges")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    table = Table(
        "annotator", "ODS F", "at grey level", "OIS F", title=f"{len(list(options.folder.glob('*.jpg')))} pictures"
    )
    for name in options.names:
        annotator = load_annotator(name, device=options.device, weights=Weights(options.weights))
        ods, threshold, ois = measure(annotator, options.folder)
        table.add_row(
            f"{annotator.name}:{annotator.variant}".rstrip(":"), f"{ods:.3f}", f"{threshold:.0f}", f"{ois:.3f}"
        )
    Console().print(table)
