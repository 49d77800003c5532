"""MoveNet Thunder: the 17 joints (COCO's) of the person in the middle of a square, as the published file decodes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze.network import JOINTS, MoveNet
from condprep.annotators.openpose.squares import Squares, run_in_chunks

SIZE, CELLS = 256, 64  # pixels, side of the network's input; of its maps
NEAR = 1.8  # cells, added to every distance, to the square's middle or to where the regression sees a joint
WIDTH, HEADS = 1.75, ("center", "kpt_heatmap", "kpt_regress", "kpt_offset")


class Landmarker:
    """The network with its decoding. chunk: people a forward."""

    def __init__(self, network: MoveNet, chunk: int) -> None:
        self.network, self.chunk = network, chunk

    def __call__(self, rgb: Tensor, regions: Squares) -> np.ndarray:
        """(B, 3, H, W) uint8 RGB, and where to look -> (N, 17, 3) float64: x, y in pixels of the picture, confidence."""
        if not len(regions):
            return np.zeros((0, JOINTS, 3))
        chunks = run_in_chunks(self._read, rgb, regions, SIZE, self.chunk)
        found = torch.cat([points for [points] in chunks]).double().cpu().numpy()
        found[~np.isfinite(found).all((1, 2))] = 0  # a user's own weights can give anything
        return np.concatenate([regions.place(found[..., :2]), found[..., 2:]], 2)

    def _read(self, seen: Tensor) -> list[Tensor]:
        return [decode(self.network(seen))]


def decode(maps: dict[str, Tensor]) -> Tensor:
    """The network's maps of n squares -> (n, 17, 3): x, y in units of the square, confidence."""
    n, device = len(maps["center"]), maps["center"].device
    steps = torch.arange(CELLS, dtype=torch.float32, device=device)
    cells = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))  # (2, 64, 64), y and x
    middle = torch.full((1, 1, 2), CELLS / 2, device=device)
    person = (maps["center"].sigmoid() / (_distance(cells, middle) + NEAR)).flatten(1).argmax(1)  # (n,)
    start = torch.stack([person // CELLS, person % CELLS], 1)[:, None]
    roughly = start + _at(maps["kpt_regress"].view(n, JOINTS, 2, -1), person[:, None].expand(-1, JOINTS))
    belief = maps["kpt_heatmap"].sigmoid()
    cell = (belief / (_distance(cells, roughly) + NEAR)).flatten(2).argmax(2)  # (n, 17)
    offset = _at(maps["kpt_offset"].view(n, JOINTS, 2, -1), cell)
    y, x = (torch.stack([cell // CELLS, cell % CELLS], 2) + offset).div(CELLS).unbind(2)
    return torch.stack([x, y, belief.flatten(2).gather(2, cell[..., None])[..., 0]], 2)


def _distance(cells: Tensor, points: Tensor) -> Tensor:
    """Of every cell (2, h, w) from points (n, K, 2) -> (n, K, h, w)."""
    distance: Tensor = (cells - points[..., None, None]).square().sum(2).sqrt()
    return distance


def _at(vectors: Tensor, cell: Tensor) -> Tensor:
    """The vectors (n, K, 2, h * w) of a cell for each joint (n, K) -> (n, K, 2)."""
    return vectors.gather(3, cell[:, :, None, None].expand(-1, -1, 2, 1))[..., 0]
