"""Weights for controlnet_aux: files that cannot run code, are damaged or another model's, or are not there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.aux_models import HOW, Checkpoints, detectors, load

from condprep.annotators.controlnet_aux import adapter
from condprep.annotators.registry import load_annotator
from condprep.errors import AnnotatorError, WeightsError, WeightsUnavailable
from condprep.weights.find import Weights


@pytest.mark.parametrize(
    ("variant", "missing", "remedy"),
    [
        ("shuffle", "controlnet_aux", r"pip install controlnet-aux==0\.0\.10"),
        ("mediapipe_face", "mediapipe", r"pip install mediapipe==0\.10\.21"),
    ],
)
def test_a_missing_package_is_named(variant: str, missing: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: an error with the line to type, before any weights are looked for."""
    known = adapter.find_spec
    monkeypatch.setattr(adapter, "find_spec", lambda name: None if name == missing else known(name))
    with pytest.raises(AnnotatorError, match=remedy):
        load_annotator(f"aux:{variant}", weights=Weights(offline=True))


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on disk nor reachable: which file, from where, and the command that fetches it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"sk_model\.pth.*condprep weights pull sk_model\.pth --to DIR"):
        load("lineart", tmp_path)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("variant", ["pidinet", "anyline", "mlsd", "normalbae", "leres", "zoe", "sam"])
def test_a_checkpoint_cannot_run_code(
    variant: str, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that runs code is refused before controlnet_aux opens it, even where torch is told to trust files."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (name,) = HOW[variant].weights
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / name, pickle_module=pickle)
    with pytest.raises(WeightsError, match=name):
        load(variant, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_an_error(content: bytes, tmp_path: Path) -> None:
    """An empty file and a text are said to be no checkpoint, by their path."""
    (tmp_path / "MTEED.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"MTEED\.pth cannot be read as a checkpoint"):
        load("anyline", tmp_path)


@pytest.mark.parametrize("variant", ["lineart", "pidinet", "mlsd", "anyline", "normalbae", "leres", "mobile_sam"])
def test_a_checkpoint_of_another_model_is_an_error(variant: str, tmp_path: Path) -> None:
    """A sound file of something else is named, with the detector that it does not fit."""
    for name in HOW[variant].weights:
        torch.save({"weight": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"another model than (controlnet_aux's {HOW[variant].cls}|{name})"):
        load(variant, tmp_path)


class TinyZoe(torch.nn.Module):
    """What stands in for ZoeDepth where only its file matters."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(2, 2)

    @classmethod
    def build_from_config(cls, config: Any) -> TinyZoe:
        return cls()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, ""),
        ({"blocks.0.attn.relative_position_index": torch.zeros(3)}, ""),
        ({"out.bias": None}, "missing out.bias"),
        ({"other": torch.zeros(3)}, "unexpected other"),
        ({"out.bias": torch.zeros(3)}, "of another shape out.bias"),
    ],
)
def test_zoe_takes_only_a_checkpoint_that_fits(
    change: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor must be there and none left over, but for the buffers that old versions of timm saved.

    The reference loads whatever fits and says nothing.
    """
    detectors()
    monkeypatch.setattr("controlnet_aux.zoe.ZoeDepth", TinyZoe)
    state = {name: value for name, value in {**TinyZoe().state_dict(), **change}.items() if value is not None}
    torch.save({"model": state}, tmp_path / "ZoeD_M12_N.pt")
    weights = Weights(tmp_path, offline=True, say=lambda _: None)
    if not complaint:
        loaded = load_annotator("aux:zoe", weights=weights).detector.model
        assert torch.equal(loaded.out.weight, state["out.weight"])
        assert not loaded.training
        return
    with pytest.raises(WeightsError, match=rf"ZoeD_M12_N\.pt is a checkpoint of another model.*{complaint}"):
        load_annotator("aux:zoe", weights=weights)


def test_memory_that_runs_out_is_no_fault_of_the_weights(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory on the device while loading is said as such, and not that the checkpoint is another model's."""

    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(adapter, "build_detector", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_annotator("aux:anyline", weights=Weights(checkpoints("anyline"), offline=True, say=lambda _: None))
