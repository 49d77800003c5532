"""What the networks of bodies, hands and faces share: chains of convolutions under the names of the published files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

STAGES = range(1, 7)

# The layers of VGG-19 that every trunk begins with, and their output channels; all 3 x 3
VGG = {
    **{"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128},
    **{"conv3_1": 256, "conv3_2": 256, "conv3_3": 256, "conv3_4": 256},
}
POOLED = {"conv1_2", "conv2_2", "conv3_4"}  # followed by a 2 x 2 max pooling


class Layers(nn.ModuleDict):
    """Layers by name, the trunk first, so that the keys of a published file are those of the state dict."""

    def __init__(self, trunk: Mapping[str, int]) -> None:
        """trunk: name -> output channels, 3 x 3 convolutions."""
        super().__init__(convolutions(trunk, 3, [*trunk.values()], [3] * len(trunk)))
        self.trunk = [*trunk]

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) float BGR, value / 256 - 0.5, H and W multiples of 8 -> (B, C, H/8, W/8), rectified."""
        for name in self.trunk:
            x = F.relu(self[name](x), inplace=True)
            x = F.max_pool2d(x, 2) if name in POOLED else x
        return x

    def maps(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """What the named layers make of x one after the other; all but the last rectified."""
        for name in names[:-1]:
            x = F.relu(self[name](x), inplace=True)
        last: Tensor = self[names[-1]](x)
        return last


def convolutions(
    names: Iterable[str], channels: int, widths: Sequence[int], kernels: Sequence[int]
) -> dict[str, nn.Module]:
    """A chain by name: the first takes `channels`, each has its width of output and its kernel, and keeps the size."""
    return {
        name: nn.Conv2d(before, width, kernel, padding=kernel // 2)
        for name, before, width, kernel in zip(names, [channels, *widths], widths, kernels)
    }
