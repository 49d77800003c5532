"""YOLOX: the boxes around the people in pictures, as comfyui_controlnet_aux's dwpose finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condprep.annotators.openpose.dwpose.network import Network

SIDE = 640  # pixels, of the network's input
GREY = 114  # below and beside the picture, which lies in the top left corner
STRIDES = (8, 16, 32)  # of the network's three layers of cells
CELLS = sum((SIDE // stride) ** 2 for stride in STRIDES)  # 8400
CLASSES = 80  # COCO's; the first is "person"
VALUES = 5 + CLASSES  # of a cell: the box, the belief that something is there, and that it is each of these
MIN_SCORE = 0.3
MAX_OVERLAP = 0.45  # intersection over union above which two boxes are one person

Boxes = NDArray[np.float32]  # (N, 4): left, top, right, bottom, pixels of the picture


class PeopleDetector:
    """The network with its decoding. chunk: pictures a forward; precision: in which it computes."""

    def __init__(self, path: Path, device: str, *, chunk: int, dtype: torch.dtype) -> None:
        network = Network(path, input=(3, SIDE, SIDE), outputs=[(CELLS, VALUES)])
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        self._device, self._chunk = device, chunk

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Boxes]:
        """Pictures (H, W, 3) uint8 RGB -> the people's boxes in each, the surest first."""
        if not pictures:
            return []
        seen, ratios = list[Tensor](), list[float]()
        for start in range(0, len(pictures), self._chunk):
            fitted, shrunk = zip(*map(letterbox, pictures[start : start + self._chunk]))
            seen.append(self._read(np.stack(fitted)))
            ratios += shrunk
        cells = torch.cat(seen).cpu().numpy()  # the one wait
        return [people(one, ratio) for one, ratio in zip(cells, ratios)]

    def _read(self, squares: NDArray[np.uint8]) -> Tensor:
        """(n, 640, 640, 3) uint8 RGB -> (n, 8400, 5) on the device: boxes in units of their cells, and a score."""
        x = torch.from_numpy(squares).to(self._device).permute(0, 3, 1, 2)
        [values] = self._network(x.to(self._network.dtype, memory_format=torch.channels_last))
        return torch.cat([values[..., :4], values[..., 4:5] * values[..., 5:6]], 2).float()


def letterbox(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A picture (H, W, 3) -> it in a square of SIDE pixels, and by how much it was enlarged. Its shape is kept."""
    height, width = rgb.shape[:2]
    ratio = min(SIDE / height, SIDE / width)
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    square = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    square[: size[1], : size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    return square, ratio


def people(cells: NDArray[np.float32], ratio: float) -> Boxes:
    """What the network says of one picture, (8400, 5): a box in units of its cell, a score -> the people's boxes."""
    sure = cells[:, 4] > MIN_SCORE
    places, strides = (array[sure] for array in _grid())
    found = cells[sure]
    with np.errstate(over="ignore"):  # a user's own weights can give anything
        centre = ((found[:, :2] + places) * strides).astype(np.float32)
        half = (np.exp(found[:, 2:4]) * strides).astype(np.float32) / np.float32(2)
    boxes = np.concatenate([centre - half, centre + half], 1) / np.float32(ratio)
    sound = np.isfinite(boxes).all(1)
    return suppress(boxes[sound].astype(np.float32), found[sound, 4])


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cells' places (8400, 2), x and y in cells, and sizes (8400, 1), pixels."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        places.append(np.stack([x, y], 2).reshape(-1, 2).astype(np.float64))
        strides.append(np.full((len(places[-1]), 1), float(stride)))
    return np.concatenate(places), np.concatenate(strides)


def suppress(boxes: Boxes, scores: NDArray[np.float32]) -> Boxes:
    """Of boxes that overlap the surest, in order of their scores. A box has the pixels of both its edges."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    left, kept = np.argsort(scores)[::-1], []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        common = np.maximum(0, high - low + 1).prod(1)
        left = left[common / (area[best] + area[left] - common) <= MAX_OVERLAP]
    return boxes[kept]
