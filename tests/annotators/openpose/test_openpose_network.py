"""The CMU networks: the reference's layers, and files that are not their weights."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from support.openpose_reference import part_of_the_reference

from condprep.annotators.openpose.network import BodyNetwork, load_network
from condprep.annotators.openpose.point_network import FACE_MAPS, HAND_MAPS, PointNetwork
from condprep.errors import WeightsError
from condprep.weights.find import WeightFile


@pytest.fixture(scope="module")
def checkpoint():
    """The reference's network with random weights, and its state dict under the names of the published file."""
    network = randomised(part_of_the_reference("model").bodypose_model())
    return network, {name.partition(".")[2]: value for name, value in network.state_dict().items()}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights that let its input's differences through."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return network.eval()


def saved(state: object, path) -> WeightFile:
    torch.save(state, path)
    return WeightFile("body_pose_model.pth", path, "0" * 64, pinned=False)


def test_the_published_weights_give_the_reference_s_maps(checkpoint, tmp_path):
    """A checkpoint under the published names loads, and gives the reference's heatmaps and PAFs."""
    theirs, state = checkpoint
    ours = load_network(saved(state, tmp_path / "body_pose_model.pth")).eval()
    x = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        heatmaps, pafs = ours(x)
        expected_pafs, expected_heatmaps = theirs(x)
    assert heatmaps.std() > 0
    assert torch.allclose(heatmaps, expected_heatmaps, rtol=1e-5, atol=1e-5 * float(expected_heatmaps.std()))
    assert torch.allclose(pafs, expected_pafs, rtol=1e-5, atol=1e-5 * float(expected_pafs.std()))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["hand", "face"])
def test_hands_and_faces_have_the_reference_s_networks(tmp_path, part):
    """Checkpoints under the published names load, and give the reference's heatmaps."""
    theirs, make = {
        "hand": (lambda: part_of_the_reference("model").handpose_model(), partial(PointNetwork, HAND_MAPS)),
        "face": (lambda: part_of_the_reference("face").FaceNet(), partial(PointNetwork, FACE_MAPS)),
    }[part]
    theirs = randomised(theirs())
    state = {name.split(".", name.count(".") - 1)[-1]: value for name, value in theirs.state_dict().items()}
    ours = load_network(saved(state, tmp_path / f"{part}.pth"), make).eval()
    x = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        maps, expected = ours(x), theirs(x)
    expected = expected[-1] if part == "face" else expected
    assert maps.shape == (2, {"hand": 22, "face": 71}[part], 5, 6)
    assert torch.allclose(maps, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


@pytest.mark.slow
def test_another_model_s_checkpoint_is_refused(checkpoint, tmp_path):
    """A checkpoint with a layer missing, too many, or of another shape is an error that names the file."""
    _, state = checkpoint
    for name, wrong in {
        "missing": {name: value for name, value in state.items() if name != "conv1_1.bias"},
        "more": state | {"conv9.weight": torch.zeros(1)},
        "shape": state | {"conv1_1.bias": torch.zeros(63)},
    }.items():
        with pytest.raises(WeightsError, match=f"{name}.pth"):
            load_network(saved(wrong, tmp_path / f"{name}.pth"))


class Bomb:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_a_file_that_runs_code_is_refused(tmp_path, capsys):
    """A pickle that would run code is an error, and does not run."""
    path = tmp_path / "body_pose_model.pth"
    path.write_bytes(pickle.dumps({"conv1_1.weight": Bomb()}, protocol=2))
    with pytest.raises(WeightsError, match=r"body_pose_model\.pth"):
        load_network(WeightFile(path.name, path, "0" * 64, pinned=False))
    assert capsys.readouterr().out == ""


def test_a_truncated_file_is_refused(checkpoint, tmp_path):
    """Half a checkpoint is an error that names the file."""
    file = saved({"conv1_1.weight": checkpoint[1]["conv1_1.weight"]}, tmp_path / "body_pose_model.pth")
    file.path.write_bytes(file.path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"body_pose_model\.pth"):
        load_network(file)


def test_heatmaps_are_rectified():
    """The last heatmaps are never below 0, the PAFs are: the published network's odd last layer."""
    torch.manual_seed(0)
    with torch.inference_mode():
        heatmaps, pafs = BodyNetwork()(torch.rand(1, 3, 16, 16))
    assert heatmaps.min() >= 0
    assert pafs.min() < 0
