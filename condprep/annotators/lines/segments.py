"""M-LSD's answer as segments, and segments as a map."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 200  # segments in a picture
BELIEVED = 0.1  # of a segment's middle, above which it is one, and
LONGER = 0.1  # pixels of the answer, its length: controlnet_aux's defaults
FARTHEST = 1 << 20  # pixels from the picture's corner that a line may end at: OpenCV fails far beyond


def likeliest(answer: Tensor) -> Tensor:
    """(B, 5 or more, h, w) -> (B, MOST or fewer, 7): score, x and y of the middle, and both ends' distances from it.

    Middles are the maxima among 3 x 3 pixels, the likeliest first.
    """
    height, width = answer.shape[2:]
    heat = answer[:, 0].sigmoid()
    heat = (heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)).flatten(1)
    score, place = heat.topk(min(MOST, height * width))
    ends = answer[:, 1:5].flatten(2).gather(2, place[:, None].expand(-1, 4, -1))
    x, y = place % width, place.div(width, rounding_mode="floor")
    return torch.cat((score[:, None], x[:, None], y[:, None], ends), 1).transpose(1, 2)


def draw_segments(found: np.ndarray, height: int, width: int) -> np.ndarray:
    """What `likeliest` found in one picture, (N, 7) float32 -> (height, width) uint8, 255 on 0, one pixel wide.

    height, width: the padded picture's, twice the answer's. Ends are truncated towards 0, as the reference's are.
    """
    ends = found[:, 3:]
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.sum((ends[:, :2] - ends[:, 2:]) ** 2, axis=1))
    kept = (found[:, 0] > BELIEVED) & (length > LONGER)  # false for what is no number
    middle = np.tile(found[kept, 1:3].astype(np.float64), 2)
    points = (2 * (middle + ends[kept])).clip(-FARTHEST, FARTHEST)
    drawn = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in points.astype(int).tolist():
        cv2.line(drawn, (x1, y1), (x2, y2), 255, 1)
    return drawn
