"""Depth and normals: parity with controlnet_aux on the same network, for every size and batch; models of transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from datasets import load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from support.aux_models import undrawn
from support.network_states import depth_state
from support.thorough import share
from support.tiny_models import dpt, zoedepth
from torch import Tensor

from condprep import AnnotatorSpec, build, load_annotator
from condprep.annotators import registry
from condprep.annotators.depth.annotator import Depth, normals, sobel, stretch
from condprep.annotators.depth.models import is_metric
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Runner
from condprep.errors import AnnotatorError, WeightsError, WeightsUnavailable
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a random DPT-hybrid under its published name: 490 MB, gone after the tests."""
    with tempfile.TemporaryDirectory() as path:
        torch.save(depth_state(), Path(path, "dpt_hybrid-midas-501f0c75.pt"))
        yield Path(path)


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    return Weights(folder, offline=True, say=lambda line: None)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from controlnet_aux import MidasDetector

    with undrawn(-0.3):
        return MidasDetector.from_pretrained(folder)


@pytest.fixture(scope="module")
def depth(weights: Weights) -> Annotator:
    with undrawn(0.3):
        return load_annotator("depth", params={"precision": "fp32"}, weights=weights)


@pytest.fixture(scope="module")
def normal(weights: Weights) -> Annotator:
    with undrawn(0.3):
        return load_annotator("normal:midas", params={"precision": "fp32"}, weights=weights)


def photo(height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def batch(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_maps_are_those_of_the_reference(reference: Any, depth: Annotator, normal: Annotator) -> None:
    """At sides that are multiples of 64 depth and normals are within one grey level of MidasDetector's, everywhere."""
    picture = photo(128, 192)
    expected = [
        m.astype(int) for m in reference(picture, detect_resolution=128, image_resolution=128, depth_and_normal=True)
    ]
    ours = [annotator(batch(picture), KEYS[:1]).maps[0].permute(1, 2, 0).numpy() for annotator in (depth, normal)]
    for mine, theirs in zip(ours, expected, strict=True):
        assert theirs.std() > 5  # there is something to compare
        assert abs(mine - theirs).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(100, 130), (64, 65)])
def test_any_size_is_padded_inside_and_cropped_back(reference: Any, depth: Annotator, height: int, width: int) -> None:
    """The map has the picture's size and is the reference's depth of the picture padded by hand, cut and stretched."""
    picture = photo(height, width)
    padded = np.pad(picture, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="symmetric")
    raw = reference.model(batch(padded) / 127.5 - 1)[:, None, :height, :width]
    expected = (stretch(raw) * 255).byte()
    maps = depth(batch(picture), KEYS[:1]).maps
    assert maps.shape == (1, 1, height, width)
    assert (maps.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (70, 3)])
def test_pictures_smaller_than_the_stride(depth: Annotator, normal: Annotator, size: tuple[int, int]) -> None:
    """Any picture from 1 x 1 has maps of its size."""
    pictures = torch.full((1, 3, *size), 200, dtype=torch.uint8)
    assert depth(pictures, KEYS[:1]).maps.shape == (1, 1, *size)
    assert normal(pictures, KEYS[:1]).maps.shape == (1, 3, *size)


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch(depth: Annotator, normal: Annotator) -> None:
    """A picture's maps are the same, within one grey level, in a batch of 1, 3 and 8, of a size off the grid."""
    pictures = batch(*(np.roll(photo(60, 50), 20 * n, axis=1) for n in range(8)))
    whole = [annotator(pictures, KEYS).maps.int() for annotator in (depth, normal)]
    for size, some in ((1, slice(0, 2)), (3, slice(2, 8))):  # each picture once
        parts = [[one(part, KEYS[: len(part)]).maps for one in (depth, normal)] for part in pictures[some].split(size)]
        apart = [(torch.cat(ours).int() - theirs[some]).abs() for ours, theirs in zip(zip(*parts), whole)]
        assert apart[0].max() <= 1
        assert (apart[1] > 1).float().mean() <= 1e-3  # a slope is flat or not at a threshold


@pytest.mark.slow
def test_bf16_changes_maps_within_the_documented_bound(weights: Weights, depth: Annotator) -> None:
    """bf16 against fp32: at most 0.25 grey levels on average, at most 2 in 99.9 % of the pixels."""
    pictures = batch(photo(192, 256))
    fast = load_annotator("depth", params={"precision": "bf16"}, weights=weights)
    difference = (fast(pictures, KEYS[:1]).maps.int() - depth(pictures, KEYS[:1]).maps.int()).abs().float()
    assert difference.any()  # bf16 was really used
    assert difference.mean() <= 0.25
    assert (difference > 2).float().mean() <= 1e-3


def test_depth_and_normals_share_one_pass(depth: Any, normal: Any) -> None:
    """The network runs once for both maps of a batch, and again when the pictures in the same memory change."""
    passes: list[int] = []
    hook = depth.model.network.register_forward_hook(lambda *_: passes.append(1))
    pictures = batch(photo(64, 64)).clone()
    first = depth(pictures, KEYS[:1]).maps
    normal(pictures.clone(), KEYS[:1])
    assert len(passes) == 1
    pictures.copy_(255 - pictures)
    assert not torch.equal(depth(pictures, KEYS[:1]).maps, first)
    assert len(passes) == 2
    hook.remove()


class Given:
    """A depth model that answers with a given depth."""

    def __init__(self, depth: Tensor) -> None:
        self.depth = depth
        self.provenance: dict[str, Any] = {}

    def __call__(self, rgb: Tensor) -> Tensor:
        return self.depth


@pytest.mark.parametrize("level", [0.0, 7.5, 1e-30])
def test_a_flat_depth_is_zero_everywhere(level: float) -> None:
    """One depth everywhere gives a map of zeros and normals that face the viewer: never NaN."""
    flat = torch.full((2, 1, 5, 4), level)
    annotator = Depth(Given(flat), "midas", device="cpu", precision="fp32")
    assert not annotator(torch.zeros(2, 3, 5, 4, dtype=torch.uint8), KEYS[:2]).maps.any()
    assert torch.equal(normals(flat), torch.tensor([255, 127, 127]).byte().view(1, 3, 1, 1).expand(2, 3, 5, 4))


def test_each_picture_is_stretched_by_itself() -> None:
    """The nearest pixel of every picture of a batch is 255 and its farthest 0."""
    depths = torch.rand(3, 1, 9, 7) * torch.tensor([1e-3, 1, 1e4]).view(3, 1, 1, 1) + 5
    maps = Depth(Given(depths), "midas", device="cpu", precision="fp32")(torch.zeros(3, 3, 9, 7).byte(), KEYS[:3]).maps
    assert maps.amax((1, 2, 3)).tolist() == [255, 255, 255]
    assert maps.amin((1, 2, 3)).tolist() == [0, 0, 0]


def test_keep_raw_brings_the_depth_back() -> None:
    """low + value / 65535 (high - low) is the model's depth, within half a level of 65,535."""
    depths = torch.rand(2, 1, 9, 7) * 1000
    annotator = Depth(Given(depths), "midas", device="cpu", precision="fp32", keep_raw=True)
    column = annotator(torch.zeros(2, 3, 9, 7, dtype=torch.uint8), KEYS[:2]).columns["depth_raw"]
    for value, expected in zip(column, depths[:, 0].numpy(), strict=True):
        levels = cv2.imdecode(np.frombuffer(value["png"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert levels.dtype == np.uint16
        depth = value["low"] + levels / 65535 * (value["high"] - value["low"])
        np.testing.assert_allclose(depth, expected, atol=0.51 * 1000 / 65535)


class Brightness:
    """A depth model that takes bright for near."""

    def __init__(self) -> None:
        self.provenance: dict[str, Any] = {"weights": {}, "licence": "", "commercial": True}

    def __call__(self, rgb: Tensor) -> Tensor:
        return rgb.float().mean(1, keepdim=True) + 7


def test_what_is_seen_and_drawn_is_what_a_call_returns() -> None:
    """Depth maps and their 65,536 levels are the same where the network's part and the drawing are steps of their own."""
    annotator = Depth(Brightness(), "midas", device="cpu", precision="fp32", keep_raw=True)
    rgb = torch.from_numpy(np.stack([data.astronaut()[:40, :56], data.coffee()[:40, :56]])).permute(0, 3, 1, 2)
    whole, drawn = annotator(rgb, KEYS[:2]), Runner(annotator)(rgb, KEYS[:2])
    for number, (pixels, columns) in zip(range(2), drawn, strict=True):
        assert np.array_equal(pixels, whole.maps[number, 0])
        assert columns["depth_raw"] == whole.columns["depth_raw"][number]


def test_keep_raw_lines_up_with_a_padded_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --fit pad the raw depth has the picture's size, its content where the map has it, and level 0 around it."""
    annotator = Depth(Brightness(), "midas", device="cpu", precision="fp32", keep_raw=True)
    spec = AnnotatorSpec(name="depth", summary="", load=lambda *_, **__: annotator)
    monkeypatch.setattr(registry, "BUILTIN", (spec,))
    (tmp_path / "raw").mkdir()
    Image.fromarray(photo(100, 60)).save(tmp_path / "raw" / "upright.png")
    build(tmp_path / "raw", tmp_path / "ds", "depth", fit="pad", resolution=128, max_upscale=2)
    [row] = load_from_disk(str(tmp_path / "ds"))["train"]
    levels = cv2.imdecode(np.frombuffer(row["depth_raw"]["png"], np.uint8), cv2.IMREAD_UNCHANGED)
    map_ = np.asarray(row["conditioning_image"])
    assert levels.shape == map_.shape == (128, 128)
    assert not levels[:, [0, -1]].any()
    assert np.abs(levels / 257 - map_ - 0.5).max() <= 0.51  # the map is truncated to 256 levels
    assert row["depth_raw"]["high"] > row["depth_raw"]["low"] > 7


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=share(100), deadline=None)
def test_sobel_is_opencv(height: int, width: int, seed: int) -> None:
    """The slopes are cv2.Sobel's with its default border, for any size from 1 x 1."""
    depth = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    slopes = sobel(torch.from_numpy(depth)[None, None])
    for mine, order in zip(slopes, ((1, 0), (0, 1)), strict=True):
        np.testing.assert_allclose(mine[0, 0], cv2.Sobel(depth, cv2.CV_32F, *order, ksize=3), atol=1e-5)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Depth Anything of 60,000 parameters in a local folder, with its preprocessing."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=70, patch_size=14, mlp_ratio=2,
        out_features=[f"stage{n}" for n in range(1, 5)], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_models_of_transformers_by_folder(tiny_model: Path) -> None:
    """`depth:FOLDER` gives the maps of transformers' own pipeline, a batch at once, and records the file's sha256."""
    from transformers import pipeline

    pictures = batch(photo(90, 120), photo(90, 120)[:, ::-1])
    annotator = load_annotator(f"depth:{tiny_model}", params={"precision": "fp32"})
    maps = annotator(pictures, KEYS[:2]).maps
    estimate = pipeline("depth-estimation", model=str(tiny_model))
    for mine, picture in zip(maps, pictures):
        raw = estimate(Image.fromarray(picture.permute(1, 2, 0).numpy()))["predicted_depth"]
        expected = (stretch(raw.reshape(1, 1, 90, 120)) * 255).byte()
        assert (mine.int() - expected[0].int()).abs().max() <= 1
    file = tiny_model / "model.safetensors"
    assert annotator.provenance["weights"][file.name] == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("make", [dpt, zoedepth])
def test_dpt_and_zoedepth_are_their_pipeline_s(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Two pictures at once: the depth that transformers' own pipeline finds in each alone, at its size, a padded border left out."""
    from transformers import pipeline

    make(tmp_path)
    pictures = batch(photo(50, 70), photo(50, 70)[:, ::-1])
    model = load_annotator(f"depth:{tmp_path}", params={"precision": "fp32"}).model  # type: ignore[attr-defined]
    model.metric = False  # the pipeline gives metres
    estimate = pipeline("depth-estimation", model=str(tmp_path))
    for mine, picture in zip(model(pictures), pictures, strict=True):
        expected = estimate(Image.fromarray(picture.permute(1, 2, 0).numpy()))["predicted_depth"].reshape(1, 50, 70)
        spread = float(expected.max() - expected.min())
        assert spread > 0
        assert (mine - expected).abs().max() <= 1e-2 * spread


def test_near_is_white_for_models_that_answer_in_metres(tiny_model: Path) -> None:
    """The same answer read as metres turns around: the largest inverse depth becomes the smallest."""
    model = load_annotator(f"depth:{tiny_model}", params={"precision": "fp32"}).model  # type: ignore[attr-defined]
    relative = model(batch(photo(70, 70))) + 1
    model.model.head.register_forward_hook(lambda module, inputs, answer: answer + 1)
    model.metric = True
    torch.testing.assert_close(model(batch(photo(70, 70))), 1 / relative)


def test_models_that_answer_in_metres_are_known() -> None:
    """The kind of answer is read from the model's configuration."""
    assert is_metric(SimpleNamespace(model_type="zoedepth"))
    assert is_metric(SimpleNamespace(model_type="depth_anything", depth_estimation_type="metric"))
    assert not is_metric(SimpleNamespace(model_type="depth_anything", depth_estimation_type="relative"))
    assert not is_metric(SimpleNamespace(model_type="dpt"))


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    """`depth:FOLDER` of something else is an error that names the folder and what it needs."""
    with pytest.raises(WeightsError, match=rf"{tmp_path.name}.*needs config\.json"):
        load_annotator(f"depth:{tmp_path}")


def test_a_model_that_cannot_be_had_offline_comes_with_a_remedy() -> None:
    """`depth:OWNER/MODEL` without a network names the model and the command that fetches it elsewhere."""
    with pytest.raises(WeightsUnavailable, match=r"hf download nobody/nothing --local-dir"):
        load_annotator("depth:nobody/nothing", weights=Weights(offline=True, say=lambda line: None))


def test_pickled_models_are_not_opened(tiny_model: Path, tmp_path: Path) -> None:
    """A folder whose weights are a pickle is refused: only safetensors are read."""
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="safetensors"):
        load_annotator(f"depth:{tmp_path}")


def test_unknown_variants_name_what_is_possible() -> None:
    """An unknown variant of depth is an error that also tells of the models of transformers."""
    with pytest.raises(AnnotatorError, match="Hub id"):
        load_annotator("depth:midsa")


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    """Weights that do not fit raise WeightsError with the file and a key."""
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "dpt_hybrid-midas-501f0c75.pt")
    with pytest.raises(WeightsError, match=r"dpt_hybrid-midas-501f0c75\.pt.*conv\.weight"):
        load_annotator("midas", weights=Weights(tmp_path, offline=True, say=lambda line: None))
