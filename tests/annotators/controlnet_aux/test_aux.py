"""The adapter to controlnet_aux gives its detectors' own maps, at the picture's own size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.aux_models import (
    GRID,
    HOW,
    KEYS,
    NETWORKS,
    WEIGHTLESS,
    Checkpoints,
    batch,
    detectors,
    load,
    picture,
    reference,
    save_checkpoints,
    variants,
)
from support.thorough import slow_ones

from condprep.annotators.controlnet_aux import builders
from condprep.annotators.controlnet_aux.adapter import Aux
from condprep.errors import AnnotatorError, Rejected


@pytest.mark.parametrize("variant", variants([*NETWORKS, "lineart_standard"]))
@pytest.mark.parametrize("cells", [(1, 2), *slow_ones([(1, 1), (2, 1)])])
def test_on_the_grid_the_map_is_the_reference_s(variant: str, cells: tuple[int, int], checkpoints: Checkpoints) -> None:
    """Square, landscape or portrait: at sides on the grid, pixel for pixel what controlnet_aux makes."""
    grid = GRID.get(variant, 64)
    shape = (cells[0] * grid, cells[1] * grid)
    folder, rgb = checkpoints(variant), picture(*shape)
    theirs = reference(variant, folder)(rgb)
    ours = load(variant, folder)(batch(rgb), KEYS[:1]).maps
    assert ours.shape == (1, HOW[variant].channels, *shape)
    assert len(np.unique(theirs)) > 1, "a flat map would equal anything"
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants([*NETWORKS, "lineart_standard"]))
@pytest.mark.parametrize("shape", [(63, 70), (100, 30), (1, 1)])
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_off_the_grid_the_map_is_the_padded_picture_s(
    variant: str, shape: tuple[int, int], checkpoints: Checkpoints
) -> None:
    """The map has the picture's size and is the reference's of the picture padded by hand, cropped."""
    folder, rgb, grid = checkpoints(variant), picture(*shape), GRID.get(variant, 64)
    padded = np.pad(rgb, [(0, -side % grid) for side in shape] + [(0, 0)], mode="symmetric")
    theirs = reference(variant, folder)(padded)[: shape[0], : shape[1]]
    ours = load(variant, folder)(batch(rgb), KEYS[:1]).maps
    assert ours.shape == (1, HOW[variant].channels, *shape)
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


@pytest.mark.slow
def test_pidinet_with_its_own_weights(shared: Path) -> None:
    """The published PiDiNet, found on a photograph: the reference's map, and edges where the picture has them."""
    folder, rgb = shared / "weights" / "pidinet", picture(256, 320)
    ours = load("pidinet", folder)(batch(rgb), KEYS[:1]).maps[0, 0].numpy()
    assert np.array_equal(ours, reference("pidinet", folder)(rgb)[..., 0])
    assert ours.max() > 200
    assert np.median(ours) < 30


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for weights of `stand_ins`, each of which is written once."""
    return tmp_path_factory.mktemp("small")


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("variant", ["leres++", "zoe"])
def test_the_heavy_ones_are_the_reference_s(variant: str, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a picture off the grid: the reference's map of the padded picture, cropped, and not a word printed."""
    folder, rgb = save_checkpoints(small, variant), picture(100, 140)
    annotator = load(variant, folder)
    capsys.readouterr()
    ours = annotator(batch(rgb), KEYS[:1]).maps
    assert capsys.readouterr().out == ""
    theirs = reference(variant, folder)(np.pad(rgb, [(0, 28), (0, 52), (0, 0)], mode="symmetric"))[:100, :140]
    assert len(np.unique(theirs)) > 1
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


def _easily_pleased(generator: Any) -> None:
    """A generator of SAM's masks that asks at four points and believes every answer, so that random weights find some."""
    generator.point_grids = [np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])]
    generator.pred_iou_thresh = generator.stability_score_thresh = -1e3
    generator.box_nms_thresh = 1


def _looking_once(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image encoder, which is most of SAM's work, keeps what it has found in a picture."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    encode = network.image_encoder.forward

    def forward(rgb: torch.Tensor) -> torch.Tensor:
        if not seen or not torch.equal(seen[-1][0], rgb):
            seen.append((rgb, encode(rgb)))
        return seen[-1][1]

    monkeypatch.setattr(network.image_encoder, "forward", forward)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
def test_sam_is_the_reference_s(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same segments in the same colours where numpy is seeded alike; other colours for another key."""
    folder, rgb = save_checkpoints(small, "mobile_sam"), picture(128, 64)
    how = HOW["mobile_sam"]
    theirs = detectors().SamDetector.from_pretrained(str(folder), model_type=how.kind, **how.files)
    theirs.mask_generator.predictor.model.eval()  # it was told so before it had its weights, and keeps the old biases
    annotator = load("mobile_sam", folder)
    for generator in (theirs.mask_generator, annotator.detector.mask_generator.generator):
        _easily_pleased(generator)
    _looking_once(annotator.detector.mask_generator.generator.predictor.model, monkeypatch)
    first, other = (annotator(batch(rgb), [key]).maps[0].permute(1, 2, 0).numpy() for key in KEYS[:2])
    np.random.seed(int(KEYS[0][:8], 16))
    expected = theirs(rgb, detect_resolution=64, image_resolution=64, output_type="np")
    assert len(np.unique(expected)) > 1
    assert np.array_equal(first, expected)
    assert not np.array_equal(first, other)


def test_where_sam_finds_nothing_its_map_is_black() -> None:
    """No segment is a black map; the reference fails."""

    class Nothing:
        def generate(self, picture: np.ndarray) -> list[Any]:
            return []

    detector = detectors().SamDetector(builders._Masks(Nothing()))
    found = Aux(detector, "sam", files=[], device="cpu")(batch(picture(100, 70)), KEYS[:1]).maps
    assert found.shape == (1, 3, 100, 70)
    assert not found.any()


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet_scribble"]))
def test_binary_maps_hold_two_values(variant: str, checkpoints: Checkpoints) -> None:
    """What is stored as a 1-bit PNG has only 0 and 255 in it, also where the picture was padded."""
    annotator = load(variant, checkpoints(variant))
    assert annotator.binary
    assert annotator(batch(picture(100, 120)), KEYS[:1]).maps.unique().tolist() == [0, 255]


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet", *WEIGHTLESS]))
def test_a_map_does_not_depend_on_its_batch(variant: str, checkpoints: Checkpoints) -> None:
    """Three pictures together and each alone: the same maps, PiDiNet's up to rounding, and the pictures are left as they were."""
    annotator = load(variant, checkpoints(variant))
    rgb = batch(picture(64, 128), np.flip(picture(64, 128), 1), np.flip(picture(64, 128), 0))
    before = rgb.clone()
    together = annotator(rgb, KEYS).maps
    alone = [annotator(one, [key]).maps for one, key in zip(rgb.split(1), KEYS)]
    assert (together.int() - torch.cat(alone).int()).abs().max() <= (variant == "pidinet")
    assert torch.equal(rgb, before)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("variant", ["sam", "mobile_sam", "zoe"])
def test_the_heavy_ones_take_a_picture_of_one_pixel(variant: str, small: Path) -> None:
    """One pixel and a column: a map of that size, which is the same when it is asked for again."""
    annotator = load(variant, save_checkpoints(small, variant))
    for height, width in ((1, 1), (70, 1)):
        rgb = batch(picture(height, width))
        found = annotator(rgb, KEYS[:1]).maps
        assert found.shape == (1, HOW[variant].channels, height, width)
    assert torch.equal(annotator(rgb, KEYS[:1]).maps, found)


def test_shuffle_is_drawn_by_the_key_alone() -> None:
    """The same key gives the same map whatever was drawn before, another key another; numpy's generator goes on."""
    annotator, rgb = load("shuffle"), batch(picture(100, 150))
    np.random.seed(5)
    first, following = annotator(rgb, KEYS[:1]).maps, np.random.rand()
    again, other = annotator(rgb, KEYS[:1]).maps, annotator(rgb, KEYS[1:2]).maps
    assert first.shape == (1, 3, 100, 150)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.random.seed(5)
    assert np.random.rand() == following


def test_shuffle_is_the_reference_s() -> None:
    """With numpy seeded alike, controlnet_aux warps the padded picture to the same map."""
    rgb = picture(128, 192)
    np.random.seed(int(KEYS[0][:8], 16))
    theirs = reference("shuffle", Path())(rgb)
    assert np.array_equal(load("shuffle")(batch(rgb), KEYS[:1]).maps[0].permute(1, 2, 0).numpy(), theirs)


def test_a_face_by_mediapipe() -> None:
    """Where mediapipe is installed, the reference's face is found in the photograph."""
    pytest.importorskip("mediapipe")
    rgb = picture(256, 256)
    ours = load("mediapipe_face")(batch(rgb), KEYS[:1]).maps[0].permute(1, 2, 0).numpy()
    assert ours.any()
    assert np.array_equal(ours, reference("mediapipe_face", Path())(rgb))


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet", "anyline", "teed", *WEIGHTLESS]))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the mean of no pixels, in controlnet_aux
def test_a_picture_of_one_colour_has_a_map(variant: str, checkpoints: Checkpoints) -> None:
    """A plain picture is no error, and a filter finds nothing in it."""
    plain = np.full((70, 90, 3), 200, np.uint8)
    found = load(variant, checkpoints(variant))(batch(plain), KEYS[:1]).maps
    assert found.shape[2:] == (70, 90)
    if variant == "lineart_standard":
        assert not found.any()


def test_a_map_of_another_size_is_refused() -> None:
    """A detector that resizes in spite of everything is an error that names it, not a map out of line."""

    class Halving:
        def __call__(self, input_image: np.ndarray, detect_resolution: int = 512, output_type: str = "pil") -> Any:
            return input_image[::2, ::2]

    annotator = Aux(Halving(), "lineart_standard", files=[], device="cpu")
    with pytest.raises(AnnotatorError, match=r"aux:lineart_standard returned a map \(64, 64, 3\).*\(128, 128, 3\)"):
        annotator(batch(picture(100, 128)), KEYS[:1])


def test_a_picture_too_small_for_its_detector_is_rejected() -> None:
    """LeReS++ fails below 129 pixels: such a picture becomes a reject that says so, and no detector is called."""
    annotator = Aux(lambda picture: picture, "leres++", files=[], device="cpu")
    with pytest.raises(Rejected, match="needs a long side of at least 129 px, this one has 128 px"):
        annotator(batch(picture(128, 64)), KEYS[:1])
