"""MoveNet MultiPose as a finder of people: their boxes in whole pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from condprep.annotators.openpose.blaze.network import GRID, STRIDE, MoveNet
from condprep.annotators.openpose.squares import ArrayRows, Squares, run_in_chunks

SIDE = 512  # pixels of the picture's long side, as the network sees it
PEOPLE = 64  # at most, in a picture
MIN_BELIEF = 0.2  # that there is the middle of somebody
NEIGHBOURS = 3  # cells; the middle is where nobody within this window is believed more
WIDTH, HEADS = 1.5, ("center", "box_scale", "box_offset")


@dataclass(frozen=True)
class Boxes(ArrayRows):
    """N people."""

    picture: np.ndarray  # (N,) int64, which picture of the batch
    belief: np.ndarray  # (N,) float64, 0 to 1
    corners: np.ndarray  # (N, 2, 2) float64, top left and bottom right, pixels of the picture


class PersonDetector:
    """The network with its decoding. chunk: pictures a forward."""

    def __init__(self, network: MoveNet, chunk: int) -> None:
        self.network, self.chunk = network, chunk

    def __call__(self, rgb: Tensor) -> Boxes:
        """(B, 3, H, W) uint8 RGB -> the boxes, ordered by picture, the surest first."""
        n, _, height, width = rgb.shape
        whole = np.full((n, 2), ((width - 1) / 2, (height - 1) / 2))
        squares = Squares(np.arange(n), whole, np.full(n, float(max(height, width))), np.zeros(n))
        down, right = band(height / max(height, width)), band(width / max(height, width))

        def read(seen: Tensor) -> list[Tensor]:
            maps = self.network(seen[:, :, down[0] : down[1], right[0] : right[1]])
            return [decode(maps, torch.tensor([down[0], right[0]], device=seen.device))]

        chunks = run_in_chunks(read, rgb, squares, SIDE, self.chunk)
        values = torch.cat([found for [found] in chunks]).double().cpu().numpy()  # (B, PEOPLE, 5)
        values[~np.isfinite(values).all(2)] = 0  # a user's own weights can give anything
        picture, person = np.nonzero(values[..., 0] >= MIN_BELIEF)
        corners = squares.place(values[..., 1:].reshape(n, -1, 2)).reshape(n, -1, 2, 2)
        return Boxes(picture, values[picture, person, 0], corners[picture, person])


def band(share: float) -> tuple[int, int]:
    """Which rows, or columns, of the square view of a picture hold it, when it fills this share of them: whole multiples of 32."""
    margin = math.floor((1 - share) / 2 * SIDE / GRID) * GRID
    return margin, SIDE - margin


def decode(maps: dict[str, Tensor], start: Tensor) -> Tensor:
    """The network's maps, of a view that begins `start` (y, x) pixels inside the square -> (N, PEOPLE, 5).

    The belief (0 where there is nobody more), then left, top, right, bottom in units of the square.
    """
    belief = maps["center"].sigmoid()
    peak = belief == F.max_pool2d(belief, NEIGHBOURS, 1, NEIGHBOURS // 2)
    score, at = (belief * peak).flatten(1).topk(min(PEOPLE, belief[0].numel()))
    size, offset = (maps[name].flatten(2).gather(2, at[:, None].expand(-1, 2, -1)) for name in HEADS[1:])
    columns = belief.shape[3]
    middle = torch.stack([at // columns, at % columns], 1) + offset  # (N, 2, PEOPLE), cells, y and x
    half = size.clamp_min(0) / 2
    y0, x0, y1, x1 = (torch.cat([middle - half, middle + half], 1) * STRIDE + start.repeat(2)[:, None]).unbind(1)
    return torch.stack([score, *(side / SIDE for side in (x0, y0, x1, y1))], 2)
