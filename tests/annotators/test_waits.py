"""How often a batch makes the host wait for the device: at most one copy in and one out, counted without a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_models
from support.aux_models import Checkpoints, batch, picture, undrawn
from support.network_states import hed_state
from support.waits import Waits
from torch.nn.functional import interpolate

from condprep import load_annotator
from condprep.annotators.depth.models import Midas
from condprep.annotators.openpose.decode import decode_poses
from condprep.annotators.openpose.operators import Frame
from condprep.annotators.protocol import Annotator, Drawer
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(4)]


def hed(folder: Path) -> None:
    torch.save(hed_state(), folder / "ControlNetHED.pth")


HED = ("hed", "hed:safe", "hed:scribble")
LINES = ("lineart", "lineart_anime", "pidinet", "teed", "mlsd", "normalbae", "pidinet:scribble")
MODELS: dict[str, Callable[[Path], object]] = {
    "segmentation": lambda folder: tiny_models.segformer(folder, tiny_models.ADE),
    "depth": tiny_models.dpt,
    "depth in metres": tiny_models.zoedepth,
    "mask": lambda folder: tiny_models.segformer(folder, {0: "background", 1: "thing"}),
    "panoptic": lambda folder: tiny_models.mask2former(folder, tiny_models.COCO),
    "normal": tiny_models.marigold,
}
OF_LIBRARIES = {"depth in metres": 6, "panoptic": 2}  # small constants that models of transformers make at each call
ASKED_BY_LIBRARIES = {
    "normal": 6
}  # by the pipeline of diffusers, which looks at its steps and at values that would be wrong
DOORS = {"depth in metres": "depth", "panoptic": "segmentation"}


@pytest.fixture(scope="module", params=[*HED, *LINES, *MODELS, "depth, raw"])
def annotator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> tuple[Annotator, int, int]:
    """With random weights; how many constants are copied to the device at each call, and what libraries ask it."""
    name, _, raw = str(request.param).partition(", ")
    folder = checkpoints(name.replace(":", "_")) if name in LINES else tmp_path_factory.mktemp("weights")
    if name not in LINES:
        (MODELS | dict.fromkeys(HED, hed))[name](folder)
    known = f"{DOORS.get(name, name)}:{folder}" if name in MODELS else name
    params = {"keep_raw": True} if raw else {}
    with undrawn(0.3) if name in LINES else nullcontext():
        loaded = load_annotator(known, params=params, weights=Weights(folder, offline=True, say=lambda _: None))
    return loaded, OF_LIBRARIES.get(name, 0), ASKED_BY_LIBRARIES.get(name, 0)


def seen(annotator: Annotator, pictures: int) -> Waits:
    """What a build does with a batch that is on the device, before it takes what was found to the host."""
    rgb, keys = batch(*(np.roll(picture(64, 64), 9 * n, axis=1) for n in range(pictures))), KEYS[:pictures]
    annotator(rgb, keys)  # the first call of a size makes what later ones find ready
    with Waits() as counted:
        annotator.see(rgb, keys) if isinstance(annotator, Drawer) else annotator(rgb, keys)
    return counted


@pytest.mark.slow
def test_no_network_makes_the_host_wait(annotator: tuple[Annotator, int, int]) -> None:
    """Nothing is copied in but the pictures, and nothing asks the device: what is found is the one copy out.

    So the device is given the next batch while this one is under way.
    """
    network, copied, asked = annotator
    counted = seen(network, 3)
    assert counted.waits == asked, counted.found
    assert counted.found["in"] == copied, counted.found
    assert counted.bytes["in"] <= 4096


@pytest.mark.parametrize("pictures", [1, 4])
def test_people_are_found_in_seven_waits(pictures: int) -> None:
    """Heatmaps of any number of pictures and people: the host waits seven times, the last one for a few kilobytes."""
    frame = Frame.of(200, 260, 184)
    draw = torch.Generator().manual_seed(0)
    coarse = (torch.rand(pictures, maps, 4, 4, generator=draw) for maps in (19, 38))
    heatmaps, pafs = (interpolate(one, frame.cells, mode="bicubic") for one in coarse)
    assert any(decode_poses(heatmaps, pafs, frame))
    with Waits() as counted:
        decode_poses(heatmaps, pafs, frame)
    assert counted.waits == 7, counted.found
    assert counted.found["out"] == 1, counted.found
    assert counted.found["in"] == 0, counted.found


def test_the_count_counts() -> None:
    """What these tests rest on: copies, questions and masks are found, and what stays where it is is not."""
    x = torch.arange(6.0)
    with Waits() as counted:
        _ = (x * 2).sum(), x[x.long()], torch.where(x > 2, x, 0)
    assert counted.waits == 0
    questions: list[Callable[[], object]] = [
        *(x.nonzero, x.cpu, x.tolist, lambda: x[x > 2], lambda: float(x.sum()), lambda: bool(x.any())),
        lambda: x.repeat_interleave(x.long()),
    ]
    for number, ask in enumerate(questions, 1):
        with counted:
            ask()
        assert counted.waits == number, counted.found
    with counted:
        torch.tensor([1.0, 2.0]).to("cpu")
        x.cpu().tolist()
    assert (counted.found["in"], counted.found["out"]) == (1, 2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_depth_and_normals_share_a_pass_of_the_network(device: str) -> None:
    """The same pictures are looked at once, changed ones again; on a device they are told without asking it."""
    midas = Midas(Looks(), {}, "cpu", "fp32")  # type: ignore[arg-type]
    midas.device = device
    rgb = batch(picture(64, 64))
    midas(rgb)
    with Waits() as counted:
        assert midas(rgb) is midas(rgb)
    assert midas.network.calls == 1
    assert counted.waits == (2 if device == "cpu" else 0)
    rgb += 1
    midas(rgb)
    midas(rgb[:, :, :32])
    assert midas.network.calls == 3


class Looks(torch.nn.Module):
    """Counts its calls."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x[:, :1].clone()
