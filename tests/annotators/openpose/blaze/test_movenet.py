"""MoveNet's networks: their files are data, and their maps are read as the published networks mean them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.movenet_models import as_files, listed, write

from condprep.annotators.openpose.blaze import detector, landmarks
from condprep.annotators.openpose.blaze.detector import SIDE, PersonDetector, band
from condprep.annotators.openpose.blaze.network import HEADS, MoveNet, load
from condprep.errors import WeightsError

SMALL = 0.1  # of a MobileNetV2's channels


def test_a_file_holds_the_network_under_the_published_names(tmp_path):
    """Kernels are turned into torch's order, float16 becomes float32, and heads that nobody asks for are left out."""
    written = write(tmp_path, "net", width=SMALL)
    read = load(*as_files(tmp_path, "net"), width=SMALL, heads=("center", "box_scale"))
    wanted = {key: value for key, value in written.state_dict().items() if "kpt" not in key and "box_offset" not in key}
    assert read.state_dict().keys() == wanted.keys()
    for key, value in read.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    x = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        maps, all_maps = read(x), written(x)
    assert {name: tuple(one.shape) for name, one in maps.items()} == {
        "center": (2, 1, 16, 24),
        "box_scale": (2, 2, 16, 24),
    }
    assert all(torch.allclose(one, all_maps[name], atol=1e-5) for name, one in maps.items())


def test_convolutions_that_halve_are_padded_as_tensorflow_pads():
    """SAME on an even side: nothing before, one after."""
    network = MoveNet(SMALL, ("center",))
    first = network.first
    with torch.inference_mode():
        first.weight.zero_()
        first.bias.zero_()
        first.weight[:, :, 0, 0] = 1 / 3  # the corner of the window that lies on the pixel itself
        out = first(torch.arange(16.0).div(3).view(1, 1, 4, 4).expand(1, 3, 4, 4))
    assert out[0, 0].tolist() == pytest.approx(np.array([[0, 2], [8, 10]]) / 3)


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        (r"\[3, 3, 3, 8\]", "[3, 3, 3, 9]", "not all there"),
        (r"\[3, 3, 3, 8\]", "[3, -3, -3, 8]", "not all there"),
        (r"\[3, 3, 3, 8\]", "[99999, 99999]", "not all there"),
        ('"float16"', '"uint8"', "'uint8'; float32, float16, int32 are known"),
        ('"weightsManifest"', '"weights"', "not a TensorFlow.js model"),
        (r"^\{", "", "not a TensorFlow.js model"),
        ("Conv1/", "Conv9/", "missing first.weight"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, change, to, message):
    """Whatever is wrong with it, the error names the file; no memory is asked for that the file does not fill."""
    write(tmp_path, "net", width=SMALL, heads=("center",))
    listed(tmp_path / "net.json", change, to)
    with pytest.raises(WeightsError, match=message) as caught:
        load(*as_files(tmp_path, "net"), width=SMALL, heads=("center",))
    assert str(tmp_path / "net.") in str(caught.value)


def test_numbers_that_are_cut_off_are_named(tmp_path):
    """So are those that are too many."""
    write(tmp_path, "net", width=SMALL, heads=("center",))
    data = (tmp_path / "net.bin").read_bytes()
    for wrong in (data[:-4], data[:100], data + b"more"):
        (tmp_path / "net.bin").write_bytes(wrong)
        with pytest.raises(WeightsError, match=r"net\.(json|bin)"):
            load(*as_files(tmp_path, "net"), width=SMALL, heads=("center",))


def test_a_network_of_another_width_is_refused(tmp_path):
    """Thunder in MultiPose's place, say."""
    write(tmp_path, "net", width=1.0, heads=("center",))
    with pytest.raises(WeightsError, match=r"another model.*of another shape"):
        load(*as_files(tmp_path, "net"), width=SMALL, heads=("center",))


class _Fixed(torch.nn.Module):
    """A network that always tells the same."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        n, _, height, width = x.shape
        assert all(one.shape[2:] == (height // 4, width // 4) for one in self.maps.values())
        return {name: one.expand(n, -1, -1, -1) for name, one in self.maps.items()}


def _maps(names, height, width):
    channels = {name: HEADS[name] for name in names}
    return {
        name: torch.full((1, c, height, width), -20.0 if name in ("center", "kpt_heatmap") else 0.0)
        for name, c in channels.items()
    }


def test_boxes_lie_where_the_maps_say():
    """A middle, its offset, height and width in cells of four of the network's pixels; in a picture half as high as wide and twice the view's size."""
    rows = band(0.5)
    maps = _maps(detector.HEADS, (rows[1] - rows[0]) // 4, SIDE // 4)
    y, x = 10, 40
    maps["center"][0, 0, y, x] = 2.0
    maps["center"][0, 0, y, x + 1] = 1.0  # no peak
    maps["center"][0, 0, y + 20, x] = -3.0  # not believed
    maps["box_offset"][0, :, y, x] = torch.tensor([0.5, -1.0])
    maps["box_scale"][0, :, y, x] = torch.tensor([8.0, 4.0])
    found = PersonDetector(_Fixed(maps), chunk=2)(torch.zeros(3, 3, SIDE, 2 * SIDE, dtype=torch.uint8))
    assert found.picture.tolist() == [0, 1, 2]
    assert found.belief == pytest.approx([torch.tensor(2.0).sigmoid().item()] * 3)
    inner = np.array([[(39 - 2) * 4, (10.5 - 4) * 4], [(39 + 2) * 4, (10.5 + 4) * 4]])  # of the view's pixels
    wanted = 2 * (inner + np.array([0, rows[0] - SIDE / 4])) - 0.5
    assert found.corners[1] == pytest.approx(wanted)


def test_joints_lie_where_the_maps_say():
    """Of two peaks the one near which the regression sees the joint, though the other is higher; moved by its offset."""
    maps = _maps(landmarks.HEADS, 64, 64)
    maps["center"][0, 0, 32, 30] = 3.0
    maps["center"][0, 0, 2, 2] = 3.5  # somebody at the edge
    maps["kpt_regress"][0, 6:8, 32, 30] = torch.tensor([-10.0, 5.0])  # of the fourth joint: to (22, 35)
    maps["kpt_heatmap"][0, 3, 23, 35] = 0.0
    maps["kpt_heatmap"][0, 3, 60, 60] = 1.0
    maps["kpt_offset"][0, 6:8, 23, 35] = torch.tensor([0.25, 0.5])
    y = landmarks.decode(maps)[0, 3]
    assert y.tolist() == pytest.approx([35.5 / 64, 23.25 / 64, 0.5])
