"""What a network needs for a picture is known before it is tried: batches are cut to it, and a picture beyond it is a reject."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import doors, dwpose_models, tiny_models
from support.aux_models import save_checkpoints, undrawn
from support.draws import recurring
from support.fragile import Fragile
from support.hungry import A_PIXEL, Hungry
from support.thorough import slow_ones
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.nn import functional as F

from condprep import load_annotator
from condprep.annotators.depth.annotator import Depth, Normal
from condprep.annotators.depth.dpt_hybrid import DptHybrid
from condprep.annotators.depth.models import Midas
from condprep.annotators.gridded import PLENTY, Gridded
from condprep.annotators.hed.annotator import CONTROLNET, Hed
from condprep.annotators.hed.network import HedNetwork
from condprep.annotators.lines.drawings import AnimeDrawing, Drawing
from condprep.annotators.lines.load import Lineart, LineartAnime, Mlsd, PidiNet, Teed
from condprep.annotators.lines.mlsd import MlsdNetwork
from condprep.annotators.lines.pidinet import PidiNetwork
from condprep.annotators.lines.teed import Teed as TeedNetwork
from condprep.annotators.memory import PLAIN, Allowance
from condprep.annotators.normals.bae import BaeNetwork, NormalBae
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.dwpose.annotator import Dwpose
from condprep.annotators.runner import Runner
from condprep.annotators.weighing import Counting, needed, twin
from condprep.errors import ProgramFault, Rejected
from condprep.weights.find import WeightFile, Weights

SIZE = 192, 128
SMALL = 96, 64


def _hed(precision: str = "fp32") -> Hed:
    return Hed(HedNetwork(), "", file=WeightFile(CONTROLNET, Path(), "", False), device="cpu", precision=precision)


def _gridded(cls: type[Gridded], network: Callable[[], torch.nn.Module], file: str) -> Gridded:
    how: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 8}
    return cls(network(), "", file=WeightFile(file, Path(), "", False), **how)


MADE: dict[str, Callable[[], Any]] = {
    "hed": _hed,
    "hed in bf16": lambda: _hed("bf16"),
    "depth": lambda: Depth(Midas(DptHybrid(), {}, "cpu", "fp32"), "midas", device="cpu", precision="fp32"),
    "normal": lambda: Normal(Midas(DptHybrid(), {}, "cpu", "fp32"), device="cpu", precision="fp32"),
    "normalbae": lambda: _gridded(NormalBae, BaeNetwork, "scannet.pt"),
    "lineart": lambda: _gridded(Lineart, Drawing, "sk_model.pth"),
    "lineart_anime": lambda: _gridded(LineartAnime, AnimeDrawing, "netG.pth"),
    "pidinet": lambda: _gridded(PidiNet, PidiNetwork, "table5_pidinet.pth"),
    "teed": lambda: _gridded(Teed, TeedNetwork, "5_model.pth"),
    "mlsd": lambda: _gridded(Mlsd, MlsdNetwork, "mlsd_large_512_fp32.pth"),
}

DOORS = {  # of models that a user names
    **dict.fromkeys(["segformer", "mask2former", "oneformer"], "segmentation"),
    **dict.fromkeys(["sapiens", "tips", "marigold"], "normal"),
    **dict.fromkeys(["dpt", "zoedepth"], "depth"),
    "sam2": "mask",
}
LABELS = {"segformer": [tiny_models.ADE], "mask2former": [tiny_models.COCO], "oneformer": [tiny_models.ADE]}


def made(name: str) -> Any:
    """With the same random weights each time."""
    torch.manual_seed(0)
    with recurring():
        return MADE[name]()


def peak(annotator: Any, rgb: Tensor) -> int:
    """Bytes that torch's own allocator of the CPU has given away at once in a call, as its profiler saw."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        annotator(rgb, ["0" * 64] * len(rgb))
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]  # type: ignore[union-attr]
    given = np.array([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())])
    return int(given.cumsum().max())


def picture(height: int, width: int) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["teed", *slow_ones(["hed", "depth", "lineart", "lineart_anime"])])
def test_what_is_counted_is_what_torch_takes(name: str) -> None:
    """Within a fifth of the peak of torch's allocator, without a number computed; a second call of the annotator is as before."""
    annotator = made(name)
    before = annotator(picture(*SIZE), ["0" * 64]).maps
    counted = needed(annotator, *SIZE)
    assert counted == pytest.approx(peak(annotator, picture(*SIZE).flip(3)), rel=0.2)
    assert torch.equal(annotator(picture(*SIZE), ["0" * 64]).maps, before)


@pytest.mark.parametrize("name", ["pidinet", *slow_ones([name for name in MADE if name != "pidinet"])])
def test_a_network_that_was_counted_first_is_as_before(name: str) -> None:
    """What it makes of its weights when it first computes is made of numbers, though a picture was counted before any was seen."""
    never, counted = made(name), made(name)
    needed(counted, 64, 64)
    rgb = picture(64, 64)
    assert torch.equal(counted(rgb, ["0" * 64]).maps, never(rgb, ["0" * 64]).maps)


@pytest.mark.parametrize("kind", ["sapiens", *slow_ones([kind for kind in DOORS if kind != "sapiens"])])
def test_what_is_remembered_for_a_size_has_numbers(kind: str, tmp_path: Path) -> None:
    """Functions of transformers keep what they made for a size, for every network: never what a count of memory made."""
    getattr(tiny_models, kind)(tmp_path, *LABELS.get(kind, ()))
    asked = {"axes": "right-up-viewer"} if kind == "sapiens" else {}
    maps = []
    for counted in (True, False):
        doors.forget_all()  # what other tests have left
        annotator: Any = load_annotator(
            f"{DOORS[kind]}:{tmp_path}", device="cpu", params={"precision": "fp32", **asked}
        )
        if counted:
            needed(annotator, *SMALL)
        maps.append(annotator(picture(*SMALL), ["0" * 64]).maps)
    assert maps[0].float().std() > 0
    assert torch.equal(*maps)


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_no_network_needs_more_than_plenty(name: str) -> None:
    """What is let through without counting would have been let through with it, and memory grows with the picture's pixels."""
    with undrawn(0.0):  # nothing is computed
        annotator = MADE[name]()
    few, many = needed(annotator, 256, 256), needed(annotator, 1024, 1024)
    assert PLAIN == 1024**2
    assert max(few / 256**2, many / 1024**2) < PLENTY / 2 == annotator.plenty / 2
    assert many > 8 * few


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segformer", "mask2former", "oneformer"])
def test_networks_of_transformers_are_counted(kind: str, tmp_path: Path) -> None:
    """Any model that a user names: the classes at the picture's size are in it, a copy was counted, and the network's maps are as before."""
    getattr(tiny_models, kind)(tmp_path, *LABELS[kind])
    annotator: Any = load_annotator(f"segmentation:{tmp_path}", device="cpu")
    before = annotator(picture(*SIZE), ["0" * 64]).maps
    assert needed(annotator, *SIZE) == pytest.approx(peak(annotator, picture(*SIZE)), rel=0.2)
    assert needed(annotator, 4000, 6000) > 10e9
    assert torch.equal(annotator(picture(*SIZE), ["0" * 64]).maps, before)


def _whole_copy(network: nn.Module, rgb: Any) -> nn.Module:
    with FakeCopyMode(rgb.fake_mode):
        return deepcopy(network)


@pytest.mark.parametrize("turned", [False, True])
def test_a_twin_takes_what_a_copy_takes(turned: bool) -> None:
    """Weights that are laid out otherwise, that are shared or frozen, and what is no weight: the same bytes as a copy's."""
    network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 8))
    network[2].weight = nn.Parameter(torch.rand(6, 8).T if turned else torch.rand(8, 6), requires_grad=False)
    network[2].register_buffer("table", torch.rand(1000))
    network.append(network[0])
    made, peaks = list[nn.Module](), list[int]()
    for copied in (twin, _whole_copy):
        with FakeTensorMode(allow_non_fake_inputs=True), Counting() as counting, torch.inference_mode():
            made.append(copied(network, torch.empty(1)))
        peaks.append(counting.peak)
    assert peaks[0] == peaks[1] > 0
    for ours, theirs in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert isinstance(ours, FakeTensor)
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
        assert ours.requires_grad == theirs.requires_grad
    assert made[0][3] is made[0][0]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "size"), [(0, SIZE), (96, (384, 320))])
def test_normals_by_diffusion_are_counted(side: int, size: tuple[int, int], tmp_path: Path) -> None:
    """As they are, in one step: at the picture's own size where the model names none, else at that size, and enlarged."""
    index = json.loads((tiny_models.marigold(tmp_path) / "model_index.json").read_text(encoding="utf-8"))
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"default_processing_resolution": side}))
    annotator: Any = load_annotator(f"normal:{tmp_path}", device="cpu")
    before = annotator(picture(*size), ["0" * 64]).maps
    assert needed(annotator, *size) == pytest.approx(peak(annotator, picture(*size)), rel=0.2)
    assert torch.equal(annotator(picture(*size), ["0" * 64]).maps, before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::FutureWarning")  # the mean of no pixels; scikit-image
def test_a_detector_that_looks_at_all_of_a_picture_is_counted(tmp_path: Path) -> None:
    """aux:anyline's network sees pictures at their own size: one of 24 megapixels is too large before it is tried."""
    annotator: Any = load_annotator("aux:anyline", weights=Weights(save_checkpoints(tmp_path, "anyline")))
    before = annotator(picture(*SIZE), ["0" * 64]).maps
    taken = peak(annotator, picture(*SIZE))
    assert taken <= needed(annotator, *SIZE) <= 1.2 * taken
    assert 2 * needed(annotator, *SIZE) < annotator.plenty * SIZE[0] * SIZE[1]
    with pytest.raises(Rejected, match=r"aux needs 1\d\.\d+ GB for a picture of 6000 x 4000 px"):
        Allowance(annotator, planned=8 * 10**9).together(1, 4000, 6000)
    assert torch.equal(annotator(picture(*SIZE), ["0" * 64]).maps, before)


class Maps(nn.Module):
    """OpenPose's answer, of nobody."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = 0 * F.avg_pool2d(pictures, 8)[:, :1]
        return maps.expand(-1, 19, -1, -1).contiguous(), maps.expand(-1, 38, -1, -1).contiguous()


def _dwpose(folder: Path) -> Dwpose:
    files = [dwpose_models.as_weights(dwpose_models.write_detector(folder / "a.onnx"))]
    files.append(dwpose_models.as_weights(dwpose_models.write_landmarks(folder / "b.onnx")))
    return Dwpose(*files, variant="dwpose", device="cpu", precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda _: Openpose(Maps(), device="cpu"), _dwpose])
def test_what_people_need_does_not_grow_with_their_picture(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """Their networks see pictures at sizes of their own, so a picture of any size is let in: where nobody is, it takes a few bytes a pixel."""
    annotator = make(tmp_path)
    most = []
    for side in (256, 2048):
        with Counting() as counting:
            annotator(torch.full((1, 3, side, side), 90, dtype=torch.uint8), ["0" * 64])
        most.append(counting.peak)
    assert most[1] - most[0] < 16 * 2048**2
    assert Allowance(annotator, planned=1, here=1).together(4, 6000, 4000) == 4


NEED = 128 * 64 * A_PIXEL  # of a picture of 100 x 60 px, rounded up to 64


def test_a_batch_is_cut_before_it_is_tried() -> None:
    """As many as the limit allows, for a picture of any size, and the maps of all of them, in order."""
    hungry = Hungry()
    rgb = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 100, 60)
    results: Any = Runner(hungry, allowance=Allowance(hungry, planned=2 * NEED + 1, here=10 * NEED))(
        rgb, ["0" * 64] * 5
    )
    assert hungry.seen == [(2, 3, 100, 60), (2, 3, 100, 60), (1, 3, 100, 60)]
    assert [int(pixels[0, 0]) for pixels, _ in results] == [1, 2, 3, 4, 5]


def test_a_picture_beyond_the_plan_is_a_reject() -> None:
    """It is never tried, and the sentence has its size, what it needs, the limit and what to do; to a byte more it is tried."""
    hungry = Hungry()
    allowance = Allowance(hungry, planned=NEED - 1, here=NEED - 1)
    (rejected,) = Runner(hungry, allowance=allowance)(torch.full((1, 3, 100, 60), 9, dtype=torch.uint8), ["0" * 64])
    assert isinstance(rejected, Rejected)
    assert (rejected.stage, rejected.code) == ("annotate", "too-large-for-network")
    assert rejected.reason.startswith("hungry needs 0.01 GB for a picture of 60 x 100 px > limit 0.01 GB")
    assert "--resolution" in rejected.reason
    assert "--network-memory" in rejected.reason
    assert not hungry.seen
    assert Allowance(hungry, planned=NEED, here=NEED).together(3, 100, 60) == 1


def test_a_smaller_device_than_the_plan_s_is_the_device_s_fault() -> None:
    """What the plan allows and this device has no room for stops, and is no reject; so is anything where there is no plan."""
    hungry = Hungry()
    with pytest.raises(ProgramFault, match=r"hungry needs .* for 2 pictures of 60 x 100 px .*a device that has more"):
        Allowance(hungry, planned=2 * NEED, here=2 * NEED - 1).together(2, 100, 60)
    with pytest.raises(ProgramFault, match="a picture of 60 x 100 px"):
        Allowance(hungry, here=NEED - 1).together(1, 100, 60)
    assert Allowance(hungry, here=NEED).together(7, 100, 60) == 1
    assert Allowance(hungry).together(1, 1, 1) == 1


def test_what_cannot_be_counted_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    """An annotator of others that does not say what it computes, and one that ends at once, which the log says."""
    caplog.set_level("INFO", "condprep")
    hungry = Hungry()
    hungry.weigh = lambda rgb: rgb.numpy().sum()  # type: ignore[method-assign, assignment, return-value]
    assert Allowance(hungry, planned=10**6, here=10**6).together(4, 100, 60) == 4
    assert "hungry: what 64 x 128 px need was counted up to" in caplog.text
    assert Allowance(Fragile(3), planned=1, here=1).together(4, 1000, 1000) == 4


def test_attention_grows_with_the_square() -> None:
    """A size is counted as it is and not reckoned from another: four times the pixels need sixteen times the scores."""

    class Attentive(Hungry):
        def weigh(self, rgb: Tensor) -> None:
            tokens = rgb[:, 0].flatten(1).float()
            (tokens.mT @ tokens).softmax(1)

    one, four = (needed(Attentive(), side, side) for side in (64, 128))
    assert four / one == pytest.approx(16, rel=0.05)
