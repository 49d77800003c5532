"""A real OpenPose-type network on MobileNetV2, run from a list of graph operations, as a stand-in for the CMU network.

Its weights live beside the checkout (`shared/weights/openpose_dm14`), not in it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

SHARED = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[3] / "shared"))
PEOPLE = SHARED / "data" / "people"
FOLDER = SHARED / "weights" / "openpose_dm14"
HEIGHT = 368  # of the network's input, twice that of the CMU network as controlnet_aux runs it

ACTIVATIONS = {None: lambda x: x, "relu": F.relu, "relu6": F.relu6}


class DM14(nn.Module):
    """(B, 3, H, W) float BGR, value / 256 - 0.5, multiples of 8 -> heatmaps (B, 19, H/8, W/8), PAFs (B, 38, ...)."""

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__()
        graph = json.loads((folder / "openpose_mnv2_dm14.json").read_text())
        self.ops, self.input, self.output = graph["ops"], graph["input"], graph["output"]
        for name, tensor in load_file(folder / "openpose_mnv2_dm14.safetensors").items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (side // 8 for side in x.shape[2:])
        x = F.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16))  # this network halves its input four times
        values = {self.input: (x + 0.5) * 256}
        for op in self.ops:
            values[op["out"]] = self._run(op, [values[name] for name in op["inputs"]])
        maps = values[self.output][:, :, :height, :width]
        return maps[:, :19], maps[:, 19:]

    def _run(self, op: dict, inputs: list[Tensor]) -> Tensor:
        match op["op"]:
            case "conv_2d" | "depthwise_conv_2d":
                return self._convolve(op, *inputs)
            case "add":
                return inputs[0] + inputs[1]
            case "concatenation":
                return torch.cat(inputs, 1)
            case "resize_bilinear":
                return _double(_double(inputs[0], 2), 3)
            case other:
                raise NotImplementedError(other)

    def _convolve(self, op: dict, x: Tensor) -> Tensor:
        weight, bias = (getattr(self, op[part].replace(".", "_")) for part in ("weight", "bias"))
        x = F.pad(
            x, _same(x.shape[3], weight.shape[3], op["stride"][1]) + _same(x.shape[2], weight.shape[2], op["stride"][0])
        )
        groups = x.shape[1] // weight.shape[1]
        return ACTIVATIONS[op["act"]](F.conv2d(x, weight, bias, op["stride"], groups=groups))


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis: the odd pixel at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _double(x: Tensor, axis: int) -> Tensor:
    """TensorFlow 1's bilinear resize to twice the size: source = target / 2, clamped at the end."""
    last = x.shape[axis] - 1
    after = torch.cat([x.narrow(axis, 1, last), x.narrow(axis, last, 1)], axis)
    return torch.stack([x, (x + after) / 2], axis + 1).flatten(axis, axis + 1)


def pictures() -> list[np.ndarray]:
    """The photographs of people, (H, W, 3) RGB each."""
    return [cv2.imread(str(path))[:, :, ::-1].copy() for path in sorted(PEOPLE.glob("*.jpg"))]
