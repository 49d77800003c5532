"""Networks on a CUDA device that is not there: no operation mixes devices, and the maps stay on theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.fake_cuda import fake_cuda, onto_cuda
from torch import nn

from condprep.annotators.depth.annotator import Depth, Normal
from condprep.annotators.depth.dpt_hybrid import DptHybrid
from condprep.annotators.depth.models import Midas
from condprep.annotators.hed.annotator import CONTROLNET, Hed
from condprep.annotators.hed.network import HedNetwork
from condprep.annotators.lines.drawings import Drawing
from condprep.annotators.lines.mlsd import MlsdNetwork
from condprep.annotators.lines.pidinet import PidiNetwork
from condprep.annotators.lines.teed import Teed
from condprep.annotators.openpose.network import BodyNetwork
from condprep.annotators.openpose.point_network import PointNetwork
from condprep.annotators.protocol import Annotator
from condprep.weights.find import WeightFile

KEYS = ["0" * 64, "1" * 64]


def annotator(name: str) -> tuple[Annotator, nn.Module]:
    """With its network, random weights."""
    if name.startswith("hed"):
        file = WeightFile(CONTROLNET, Path(), "", False)
        hed = Hed(HedNetwork(), name.partition(":")[2], file=file, device="cpu", precision="fp32")
        hed.device = "cuda"  # where its network is about to go
        return hed, hed.network
    midas = Midas(DptHybrid(), {}, "cpu", "fp32")
    if name == "depth":
        return Depth(midas, "midas", device="cuda", precision="fp32"), midas.network
    return Normal(midas, device="cuda", precision="fp32"), midas.network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hed", "hed:safe", "hed:mix", "depth", "normal"])
def test_maps_stay_on_the_device(name: str) -> None:
    """Pictures of any size on the device give maps there: nothing is made on the CPU on the way."""
    annotate, network = annotator(name)
    with fake_cuda():
        onto_cuda(network)
        maps = annotate(torch.empty(2, 3, 70, 100, dtype=torch.uint8, device="cuda"), KEYS).maps
        assert maps.device.type == "cuda"
        assert (maps.dtype, maps.shape[0], maps.shape[2:]) == (torch.uint8, 2, (70, 100))


@pytest.mark.slow
@pytest.mark.parametrize("network", [PidiNetwork, Teed, Drawing, MlsdNetwork])
def test_networks_of_lines_stay_on_the_device(network: type[nn.Module]) -> None:
    """Lines and edges, too: what a network makes of its own weights is where these are."""
    with fake_cuda():
        assert onto_cuda(network())(torch.empty(2, 3, 256, 256, device="cuda")).device.type == "cuda"


@pytest.mark.parametrize(
    "network", [BodyNetwork, lambda: PointNetwork(22), lambda: PointNetwork(71)], ids=["body", "hand", "face"]
)
def test_openpose_s_networks_stay_on_the_device(network: type[nn.Module]) -> None:
    """Heatmaps and PAFs are where the pictures are."""
    with fake_cuda():
        found = onto_cuda(network())(torch.empty(2, 3, 64, 80, device="cuda"))
        assert {maps.device.type for maps in (found if isinstance(found, tuple) else [found])} == {"cuda"}


def test_a_tensor_of_another_device_is_found() -> None:
    """What these tests rest on: an operation with a tensor of the CPU fails."""
    with fake_cuda(), pytest.raises(RuntimeError, match=r"same device|different devices"):
        torch.empty(2, device="cuda") + torch.empty(2)
