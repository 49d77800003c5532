"""Small networks of the kinds that DWPose has, with random weights, as .onnx files; and rtmlib, which runs such files."""

from __future__ import annotations

import hashlib
import importlib
import io
import subprocess
import sys
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condprep.weights.find import WeightFile

RTMLIB = "rtmlib==0.0.16"  # it wants opencv-python and opencv-contrib-python, which ours stands in for: not installed
RTMLIB_SHA256 = "ba932b25f7d264d7ec4837545c5e7c392001f48b53e22e514cb1497882389eaa"


class Block(nn.Module):
    """Convolution, batch normalization, SiLU: what both networks are built of."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight)  # so that depth does not make all places alike
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x * x.sigmoid()


class Yolox(nn.Module):
    """Every fourth pixel as a channel, a pyramid down and up, pooled neighbourhoods, three heads. belief: bias of the scores."""

    def __init__(self, belief: float, channels: int = 8) -> None:
        super().__init__()
        self.stem = Block(12, channels, 3)
        self.down = nn.ModuleList(Block(channels, channels, 3, 2) for _ in range(4))
        self.pool, self.up = Block(4 * channels, channels), nn.Upsample(scale_factor=2, mode="nearest")
        self.join = nn.ModuleList(Block(2 * channels, channels) for _ in range(2))
        self.heads = nn.ModuleList(nn.ModuleList(nn.Conv2d(channels, n, 1) for n in (4, 1, 80)) for _ in range(3))
        for box, something, classes in self.heads:
            box.bias.data += torch.tensor([0, 0, 1.5, 2])
            for belongs in (something, classes):
                belongs.weight.data *= 4
                belongs.bias.data += belief

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)
        x = self.down[0](self.stem(x / 255))
        fine = self.down[1](x)
        middle = self.down[2](fine)
        coarse = self.down[3](middle)
        pooled = [nn.functional.max_pool2d(coarse, side, 1, side // 2) for side in (5, 9, 13)]
        coarse = self.pool(torch.cat([coarse, *pooled], 1))
        middle = self.join[0](torch.cat([self.up(coarse), middle], 1))
        fine = self.join[1](torch.cat([self.up(middle), fine], 1))
        cells = [self._head(layer, head) for layer, head in zip((fine, middle, coarse), self.heads)]
        return torch.cat(cells, 2).permute(0, 2, 1)

    def _head(self, layer: Tensor, head: nn.ModuleList) -> Tensor:
        box, something, classes = (part(layer) for part in head)
        return torch.cat([box, something.sigmoid(), classes.sigmoid()], 1).flatten(start_dim=2)


class ScaleNorm(nn.Module):
    """Vectors of one length."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale, self.gain = size**-0.5, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.norm(x, dim=2, keepdim=True) * self.scale
        return x / length.clamp(min=1e-5) * self.gain


class Gate(nn.Module):
    """RTMPose's gated attention between the points."""

    def __init__(self, size: int, keys: int = 16) -> None:
        super().__init__()
        self.parts = [2 * size, 2 * size, keys]
        self.norm, self.into, self.out = (
            ScaleNorm(size),
            nn.Linear(size, sum(self.parts), bias=False),
            nn.Linear(2 * size, size),
        )
        self.gamma, self.beta = nn.Parameter(torch.rand(2, keys)), nn.Parameter(torch.rand(2, keys))
        self.kept = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.into(self.norm(x))
        gate, value, base = torch.split(mixed * mixed.sigmoid(), self.parts, dim=2)
        query, key = torch.unbind(base.unsqueeze(2) * self.gamma[None, None] + self.beta, dim=2)
        kernel = torch.square(torch.relu(torch.bmm(query, key.permute(0, 2, 1)) / self.parts[2] ** 0.5))
        return self.kept * x + self.out(gate * torch.bmm(kernel, value))


class Attention(nn.Module):
    """Each channel weighted by what the whole picture says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class Rtmpose(nn.Module):
    """A pyramid down, a map a point, attention between the points, and where along each axis it is."""

    def __init__(self, channels: int = 8, size: int = 32, points: int = 133) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Block(3, channels, 3, 2),
            Block(channels, channels, 3, 2),
            Block(channels, channels, 5, 2, groups=channels),
            Attention(channels),
            Block(channels, channels, 3, 2),
            Block(channels, channels, 3, 2),
        )
        self.maps = nn.Conv2d(channels, points, 7, padding=3)
        self.mix = nn.Sequential(ScaleNorm(12 * 9), nn.Linear(12 * 9, size, bias=False))
        self.gate, self.x, self.y = Gate(size), nn.Linear(size, 576, bias=False), nn.Linear(size, 768, bias=False)
        self.x.weight.data *= 0.3  # so that some points are there and some are not
        self.y.weight.data *= 0.3

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.gate(self.mix(torch.flatten(self.maps(self.body(x)), 2)))
        return self.x(found), self.y(found)


def write_detector(path: Path, belief: float = -0.1) -> Path:
    """As YOLOX writes it: for one picture."""
    path.write_bytes(_detector(belief))
    return path


@cache
def _detector(belief: float) -> bytes:
    torch.manual_seed(3)
    return _exported(Yolox(belief), (1, 3, 640, 640), ["output"])


def write_landmarks(path: Path) -> Path:
    """As mmdeploy writes it: for any number of people."""
    path.write_bytes(_landmarks())
    return path


@cache
def _landmarks() -> bytes:
    torch.manual_seed(4)
    return _exported(Rtmpose(), (1, 3, 384, 288), ["simcc_x", "simcc_y"], free=True)


def _exported(network: nn.Module, shape: tuple[int, ...], outputs: list[str], free: bool = False) -> bytes:
    pytest.importorskip("onnx")
    written = io.BytesIO()
    axes = {name: {0: "batch"} for name in ["input", *outputs]} if free else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter that both projects used is an old one, and says so
        torch.onnx.export(
            network.eval(),
            (torch.rand(shape),),
            written,
            opset_version=11,
            dynamo=False,
            input_names=["input"],
            output_names=outputs,
            dynamic_axes=axes,
        )
    return written.getvalue()


def as_weights(path: Path) -> WeightFile:
    """A file as `Weights` gives it."""
    return WeightFile(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest(), pinned=False)


def rtmlib(folder: Path) -> Any:
    """The package, from its wheel, which is fetched and not installed. Skips where it cannot be had."""
    pytest.importorskip("onnxruntime")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", RTMLIB]
    if subprocess.run(fetch, cwd=folder, capture_output=True).returncode:
        pytest.skip(f"{RTMLIB} cannot be fetched")
    [wheel] = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == RTMLIB_SHA256
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("rtmlib")
    finally:
        sys.path.remove(str(folder))
