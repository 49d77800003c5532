"""openpose:movenet: its files are data, its maps are read as the published networks mean them, and people are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.movenet_models import as_files, listed, write

from condprep.annotators.openpose.load import MOVENET
from condprep.annotators.openpose.movenet import detector, landmarks
from condprep.annotators.openpose.movenet.annotator import MARGIN, bodies, distinct, regions
from condprep.annotators.openpose.movenet.detector import SIDE, Boxes, PersonDetector, band
from condprep.annotators.openpose.movenet.landmarks import Landmarker
from condprep.annotators.openpose.movenet.network import HEADS, MoveNet, load
from condprep.annotators.registry import load_annotator
from condprep.errors import AnnotatorError, WeightsError
from condprep.weights.find import Weights

SMALL = 0.1  # of a MobileNetV2's channels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks as `--weights` wants them, with random weights."""
    made = tmp_path_factory.mktemp("movenet")
    write(made, "movenet-multipose", width=detector.WIDTH)
    write(made, "movenet-thunder", width=landmarks.WIDTH, heads=landmarks.HEADS)
    return made


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


def test_a_person_is_the_same_whatever_else_is_in_the_batch(folder):
    """Bit for bit, and in whatever order pictures come."""
    files = as_files(folder, "movenet-thunder")
    looker = Landmarker(load(*files, width=landmarks.WIDTH, heads=landmarks.HEADS), chunk=2)
    rgb = torch.randint(0, 256, (3, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = Boxes(np.arange(3), np.ones(3), np.tile([[5.0, 5.0], [25.0, 35.0]], (3, 1, 1)))
    with torch.inference_mode():
        together = looker(rgb, regions(boxes))
        alone = looker(rgb[2:], regions(Boxes(np.zeros(1, int), np.ones(1), boxes.corners[:1])))
        nobody = looker(rgb, regions(boxes[:0]))
    assert np.array_equal(together[2], alone[0])
    assert nobody.shape == (0, 17, 3)


def test_the_neck_is_the_middle_of_the_shoulders():
    """As sure as the less sure of both. The other joints are COCO's in OpenPose's order; left and right stay the person's."""
    points = np.arange(51.0).reshape(1, 17, 3)
    body = bodies(points)[0]
    assert body[1].tolist() == [16.5, 17.5, 17.0]
    assert body[2].tolist() == points[0, 6].tolist()  # the right shoulder
    assert body[13].tolist() == points[0, 15].tolist()  # the left ankle


def test_people_are_told_apart_and_phantoms_left_out():
    """The same pose twice is one person, in one picture; whose surest joints are not believed is nobody."""
    rng = np.random.default_rng(0)
    one = np.concatenate([rng.uniform(0, 100, (18, 2)), np.full((18, 1), 0.6)], 1)
    surer, other, phantom = one.copy(), one + np.array([300, 0, 0]), one + np.array([600, 0, 0])
    surer[:, 2], phantom[:4, 2], phantom[4:, 2] = 0.7, 0.5, 0.1
    found = np.stack([one, surer, other, phantom, one])
    assert distinct(np.array([0, 0, 0, 0, 1]), found).tolist() == [1, 2, 4]
    assert distinct(np.zeros(0, int), found[:0]).tolist() == []


def test_a_region_is_a_square_around_the_box():
    """A quarter larger than its longer side, and never without area."""
    boxes = Boxes(np.zeros(2, int), np.ones(2), np.array([[[0.0, 10], [20, 110]], [[5, 5], [5, 5]]]))
    squares = regions(boxes)
    assert squares.side.tolist() == [100 * MARGIN, 8.0]
    assert squares.centre.tolist() == [[10, 60], [5, 5]]


def test_it_is_loaded_by_name(folder):
    """Variant, files and licence are recorded; random weights see nobody, at sizes off the grid and of one pixel, too."""
    annotator = load_annotator(
        "openpose:movenet", device="cpu", weights=Weights(folder, offline=True, say=lambda _: None)
    )
    assert (annotator.name, annotator.variant) == ("openpose", "movenet")
    assert list(annotator.provenance["weights"]) == list(MOVENET)
    assert annotator.provenance["commercial"]
    for size in ((1, 1), (37, 61)):
        maps = annotator(torch.zeros(1, 3, *size, dtype=torch.uint8), [""])
        assert maps.columns["keypoints"] == [{"people": []}]
        assert tuple(maps.maps.shape) == (1, 3, *size)


def test_plain_openpose_takes_it_before_blaze(folder):
    """Without the CMU weights and dwpose's it stands in where its files are at hand, and a line says so."""
    said: list[str] = []
    annotator = load_annotator("openpose", device="cpu", weights=Weights(folder, offline=True, say=said.append))
    assert annotator.variant == "movenet"
    assert "USING openpose:movenet INSTEAD: other networks (MoveNet, Apache-2.0)" in "\n".join(said)


@pytest.mark.parametrize("params", [{"tiles": 1}, {"precision": "fp16"}])
def test_what_it_does_not_heed_is_refused(folder, params):
    """A parameter of other variants."""
    with pytest.raises(AnnotatorError, match=rf"openpose\.{next(iter(params))} has no meaning for openpose:movenet"):
        load_annotator("openpose:movenet", params=params, device="cpu", weights=Weights(folder, offline=True))
