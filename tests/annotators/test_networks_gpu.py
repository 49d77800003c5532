"""Every network on a device: the CPU's maps, no waiting per picture, no memory that grows, half precision near enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from support.aux_models import save_checkpoints
from support.device import DEVICE, ON_CUDA, held, on_device, waits
from support.network_states import depth_state, hed_state
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.openpose.network import BodyNetwork
from condprep.annotators.openpose.operators import Frame
from condprep.annotators.precision import AUTO
from condprep.annotators.protocol import Annotator
from condprep.weights.find import Weights

pytestmark = on_device
SHARED = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[3] / "shared"))
PIDINET = SHARED / "weights" / "pidinet"
KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]
BATCHES = 1000 if ON_CUDA else 12


def save(name: str, state: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda folder: torch.save(state(), folder / name)


HED = save("ControlNetHED.pth", hed_state)
DPT = save("dpt_hybrid-midas-501f0c75.pt", depth_state)
NETWORKS: dict[str, Callable[[Path], object]] = {
    "hed": HED,
    "hed:safe": HED,
    "hed:mix": HED,
    "depth": DPT,
    "normal": DPT,
    "pidinet": lambda folder: save_checkpoints(folder, "pidinet"),
    "lineart": lambda folder: save_checkpoints(folder, "lineart"),
    "teed": lambda folder: save_checkpoints(folder, "teed"),
    "mlsd": lambda folder: save_checkpoints(folder, "mlsd"),
}
LEVELS = {
    "hed:safe": 128,
    "hed:mix": 128,
    "teed": 128,
    "normal": 8,
}  # what one step of their maps is, in grey levels


@dataclass(frozen=True)
class Pair:
    """One annotator on the CPU in float32, and on the device in the precision that is asked for."""

    name: str
    folder: Path
    cpu: Annotator

    def there(self, precision: str = "fp32") -> Annotator:
        return load(self.name, self.folder, DEVICE, precision)


def load(name: str, folder: Path, device: str, precision: str) -> Annotator:
    params = {} if name.startswith("aux:") else {"precision": precision}
    return load_annotator(name, device=device, params=params, weights=Weights(folder, offline=True, say=lambda _: None))


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """With the same random weights."""
    folder = tmp_path_factory.mktemp(request.param.replace(":", "_"))
    NETWORKS[request.param](folder)
    yield Pair(request.param, folder, load(request.param, folder, "cpu", "fp32"))
    for file in folder.iterdir():
        file.unlink()  # up to 490 MB


def pictures(count: int, side: int = 128) -> Tensor:
    photo = data.astronaut()[:side, 100 : 100 + side]
    return torch.from_numpy(np.stack([np.roll(photo, 9 * n, axis=1) for n in range(count)])).permute(0, 3, 1, 2)


def apart(pair: Pair, annotator: Annotator, rgb: Tensor) -> Tensor:
    """Grey levels between the device's maps and the CPU's."""
    maps = annotator(rgb.to(DEVICE), KEYS[: len(rgb)]).maps
    return (maps.cpu().int() - pair.cpu(rgb, KEYS[: len(rgb)]).maps.int()).abs().float()


def test_maps_are_those_of_the_cpu(pair: Pair) -> None:
    """At most 0.25 grey levels apart on average, at most 2 (or a step of the map) in 99.9 % of the pixels: convolutions may run in TF32."""
    difference = apart(pair, pair.there(), pictures(4))
    step = LEVELS.get(pair.name, 2)
    assert difference.mean() <= 0.25 * max(1, step / 8)
    assert (difference > step).float().mean() <= 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_enough(pair: Pair, precision: str) -> None:
    """What the documents promise of bf16, and fp16 no worse: on average at most 0.25 grey levels, 99.9 % within 2."""
    if pair.name not in ("hed", "depth"):
        pytest.skip("in float32 alone, or the same network")
    difference = apart(pair, pair.there(precision), pictures(4))
    assert difference.mean() <= 0.25
    assert (difference > 2).float().mean() <= 1e-3


def test_what_auto_takes_is_near_enough(pair: Pair) -> None:
    """Half precision that nobody asked for: on average less than a grey level from the CPU's maps, 99.9 % within 8."""
    half = AUTO.get(pair.name, ("fp32",))[0]
    if half == "fp32" or pair.name in ("normal", "pidinet"):
        pytest.skip(
            "in float32 unless asked, or of random weights that say nothing: slopes of noise, values beyond fp16"
        )
    check_near_enough(apart(pair, pair.there(half), pictures(4)))


@pytest.mark.skipif(not PIDINET.is_dir(), reason=f"no weights in {PIDINET}")
def test_pidinet_in_half_precision_is_near_enough() -> None:
    """The same of PiDiNet's published weights, and of stripes as fine as a pixel, which go beyond fp16 in its coarsest scale."""
    pair = Pair("pidinet", PIDINET, load("pidinet", PIDINET, "cpu", "fp32"))
    stripes = (torch.arange(128) % 2 * 255).byte().expand(4, 3, 128, 128)
    for rgb in (pictures(4), stripes.contiguous()):
        check_near_enough(apart(pair, pair.there(AUTO["pidinet"][0]), rgb))


def check_near_enough(difference: Tensor) -> None:
    assert difference.mean() < 1
    assert (difference > 8).float().mean() <= 1e-3


def test_no_waiting_per_picture(pair: Pair) -> None:
    """A batch of eight makes the host wait as often as a batch of two; controlnet_aux takes a picture at a time."""
    if pair.name.startswith("aux:"):
        pytest.skip("controlnet_aux takes a picture at a time")
    annotator, few, many = pair.there(), pictures(2).to(DEVICE), pictures(8).to(DEVICE)
    for rgb in (few, many):
        annotator(rgb, KEYS[: len(rgb)])  # the first call of a size chooses its kernels
    assert waits(lambda: annotator(many, KEYS)) == waits(lambda: annotator(few, KEYS[:2]))


def test_device_memory_does_not_grow(pair: Pair) -> None:
    """After 1,000 batches the device holds what it held after ten."""
    annotator, rgb = pair.there(), pictures(2, 64).to(DEVICE)
    before = 0
    for number in range(BATCHES if pair.name in ("hed", "depth") else 12):
        annotator(rgb.roll(number, 0), KEYS[:2])
        before = held() if number == 9 else before
    assert held() <= before


def test_the_cmu_network_is_that_of_the_cpu() -> None:
    """Heatmaps and PAFs of random weights are within 1 % of their largest value."""
    torch.manual_seed(0)
    network, x = BodyNetwork().eval(), torch.rand(2, 3, 184, 184) - 0.5
    assert Frame.of(512, 512, 184).cells == (23, 23)  # 184 px are what a square picture becomes
    with torch.inference_mode():
        expected = network(x)
        found = network.to(DEVICE)(x.to(DEVICE))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.cpu() - theirs).abs().max() <= 0.01 * theirs.abs().max()
