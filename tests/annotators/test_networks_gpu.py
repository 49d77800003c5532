"""HED and depth on a CUDA device: the CPU's maps, no waiting per picture, no memory that grows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from support.network_states import depth_state, hed_state
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.protocol import Annotator
from condprep.weights.find import Weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]
NETWORKS = {
    "hed": ("ControlNetHED.pth", hed_state),
    "depth": ("dpt_hybrid-midas-501f0c75.pt", depth_state),
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Annotator]]:
    """One annotator on both devices, with the same random weights, in float32."""
    folder = tmp_path_factory.mktemp(request.param)
    file, state = NETWORKS[request.param]
    torch.save(state(), folder / file)
    weights = Weights(folder, offline=True, say=lambda line: None)
    yield {
        device: load_annotator(request.param, device=device, params={"precision": "fp32"}, weights=weights)
        for device in ("cpu", "cuda")
    }
    Path(folder, file).unlink()  # up to 490 MB


def pictures(count: int, side: int = 128) -> Tensor:
    photo = data.astronaut()[:side, 100 : 100 + side]
    return torch.from_numpy(np.stack([np.roll(photo, 9 * n, axis=1) for n in range(count)])).permute(0, 3, 1, 2)


def test_maps_are_those_of_the_cpu(pair: dict[str, Annotator]) -> None:
    """At most 0.25 grey levels apart on average, at most 2 in 99.9 % of the pixels: convolutions may run in TF32."""
    rgb = pictures(4)
    maps = {device: annotator(rgb.to(device), KEYS[:4]).maps for device, annotator in pair.items()}
    assert maps["cuda"].device.type == "cuda"
    difference = (maps["cuda"].cpu().int() - maps["cpu"].int()).abs().float()
    assert difference.mean() <= 0.25
    assert (difference > 2).float().mean() <= 1e-3


def waits(annotator: Annotator, rgb: Tensor) -> int:
    """How often the host waits for the device during a call."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            annotator(rgb, KEYS[: len(rgb)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def test_no_waiting_per_picture(pair: dict[str, Annotator]) -> None:
    """A batch of eight makes the host wait as often as a batch of two."""
    few, many = pictures(2).cuda(), pictures(8).cuda()
    for rgb in (few, many):
        pair["cuda"](rgb, KEYS[: len(rgb)])  # the first call of a size chooses its kernels
    assert waits(pair["cuda"], many) == waits(pair["cuda"], few)


def test_device_memory_does_not_grow(pair: dict[str, Annotator]) -> None:
    """After 1,000 batches the device holds what it held after ten."""
    rgb = pictures(2, 64).cuda()
    held = []
    for number in range(1000):
        pair["cuda"](rgb.roll(number, 0), KEYS[:2])
        if number == 9:
            held.append(torch.cuda.memory_allocated())
    assert torch.cuda.memory_allocated() <= held[0]
