"""RTMPose: the 133 points (COCO-WholeBody) of each person in a box, as comfyui_controlnet_aux's dwpose finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condprep.annotators.openpose.dwpose.detector import Boxes
from condprep.annotators.openpose.dwpose.network import Network

WIDTH, HEIGHT = 288, 384  # pixels, of the network's input
POINTS = 133
BINS = 2  # a pixel: along each axis the network tells in which of these a point is
MARGIN = np.float32(1.25)  # the network sees this many times the box
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of the colours, RGB


class Landmarker:
    """The network with its decoding. chunk: people a forward; dtype: in which it computes."""

    def __init__(self, path: Path, device: str, *, chunk: int, dtype: torch.dtype) -> None:
        network = Network(path, input=(3, HEIGHT, WIDTH), outputs=[(POINTS, WIDTH * BINS), (POINTS, HEIGHT * BINS)])
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        self._device, self._chunk = device, chunk
        self._mean, self._deviation = (torch.tensor(one, device=device).view(3, 1, 1) for one in (MEAN, DEVIATION))

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[Boxes]) -> list[NDArray[np.float64]]:
        """Pictures (H, W, 3) uint8 RGB and the boxes in each -> (N, 133, 3) for each: x, y in its pixels, and a score."""
        people = [(rgb, box) for rgb, found in zip(pictures, boxes, strict=True) for box in found]
        if not people:
            return [np.zeros((0, POINTS, 3)) for _ in boxes]
        seen, centres, sizes = list[Tensor](), list[NDArray[np.float32]](), list[NDArray[np.float32]]()
        for start in range(0, len(people), self._chunk):
            crops, at, wide = zip(*(crop(*person) for person in people[start : start + self._chunk]))
            seen.append(self._read(np.stack(crops)))
            centres += at
            sizes += wide
        placed = place(torch.cat(seen).cpu().numpy(), np.stack(centres), np.stack(sizes))  # the one wait
        return np.split(placed, np.cumsum([len(found) for found in boxes])[:-1])

    def _read(self, crops: NDArray[np.uint8]) -> Tensor:
        """(n, 384, 288, 3) uint8 RGB -> (n, 133, 3) on the device: bins along both axes, and a score."""
        rgb = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2)
        normalised = ((rgb - self._mean) / self._deviation).to(self._network.dtype, memory_format=torch.channels_last)
        x, y = self._network(normalised)
        return decode(x.float(), y.float())


def crop(
    rgb: NDArray[np.uint8], box: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """What the network sees of a person (384, 288, 3), that region's centre and its size (2,), pixels of the picture."""
    centre = ((box[:2] + box[2:]) * np.float32(0.5)).astype(np.float32)
    size = whole((box[2:] - box[:2]) * MARGIN)
    seen: NDArray[np.uint8] = cv2.warpAffine(rgb, _matrix(centre, size), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return seen, centre, size


def whole(size: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest region of the network's shape that holds one of this width and height."""
    width, height = size
    ratio = WIDTH / HEIGHT
    return np.array([width, width / ratio] if width > height * ratio else [height * ratio, height], np.float32)


def _matrix(centre: NDArray[np.float32], size: NDArray[np.float32]) -> NDArray[np.float64]:
    """From the region to the network's input."""
    target = _corner(np.array([WIDTH, HEIGHT], np.float32) * np.float32(0.5), np.float32(WIDTH))
    matrix: NDArray[np.float64] = cv2.getAffineTransform(_corner(centre, size[0]), target)
    return matrix


def _corner(centre: NDArray[np.float32], width: np.float32) -> NDArray[np.float32]:
    """Three points (3, 2) of a region: its middle, the one half its width above that, and the one as far to its left."""
    above = centre + np.array([0, width * np.float32(-0.5)], np.float32)
    return np.array([centre, above, above - [(centre - above)[1], 0]], np.float32)


def decode(x: Tensor, y: Tensor) -> Tensor:
    """The network's outputs (n, 133, 576) and (n, 133, 768) -> (n, 133, 3): the highest bins, and the lower of their values."""
    (score_x, at_x), (score_y, at_y) = x.max(2), y.max(2)
    return torch.stack([at_x.float(), at_y.float(), torch.minimum(score_x, score_y)], 2)


def place(found: NDArray[np.float32], centres: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bins and scores of people (n, 133, 3), and their regions (n, 2) -> points in pixels of their pictures, and scores."""
    points = found.astype(np.float64)
    unit = points[..., :2] / BINS / (WIDTH, HEIGHT)
    points[..., :2] = unit * sizes[:, None] + centres[:, None] - sizes[:, None] / np.float32(2)
    return points
