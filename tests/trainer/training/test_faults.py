"""What goes wrong in the middle of a whole run leaves what was good before it, and says what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.trainer_models import save_base
from support.trainer_runs import equal, make_place, make_recipe, weights

from trainer.errors import TrainingStopped
from trainer.training.state import LearnerState
from trainer.training.step import Learner
from trainer.training.train import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("faults"), rows=12)


@pytest.mark.parametrize("cached", [True, False])
def test_a_vae_that_overflows_is_found_before_the_first_update(cached: bool, place: Path, tmp_path: Path) -> None:
    """As SDXL's does in fp16: latents that are no numbers stop the run, with the key that names another VAE."""
    folder = save_base(tmp_path / "base", "sdxl")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["quant_conv.bias"] += torch.finfo(torch.float32).max  # any further sum is inf
    tensors["quant_conv.weight"] *= float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    cache = {"latents": cached, "dir": str(tmp_path / "c")}
    tables: dict[str, Any] = {"model": {"base": str(folder), "init": "unet"}, "cache": cache}
    with pytest.raises(TrainingStopped, match=r"very first batch is not a finite number.*model\.vae"):
        train(make_recipe(place, tmp_path / "output", **tables))
    assert not (tmp_path / "output" / "metrics.jsonl").exists()
    assert not list((tmp_path / "c").rglob("*.npy"))


def test_gradients_that_overflow_stop_the_run_before_anything_is_saved(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are fine and the gradients' norm is not: the run stops, and no checkpoint has the spoilt weights."""
    clip = Learner.clip

    def spoil(self: Learner) -> torch.Tensor:
        next(self.controlnet.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return clip(self)

    monkeypatch.setattr(Learner, "clip", spoil)
    tables: dict[str, Any] = {"train": {"steps": 4, "batch": 4, "micro_batch": 4}, "save": {"every": 1}}
    with pytest.raises(TrainingStopped, match=r"norm is not a finite number although the losses are.*train\.lr"):
        train(make_recipe(place, tmp_path / "output", **tables))
    assert not list((tmp_path / "output").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_disk_that_fills_in_a_checkpoint_leaves_the_one_before(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Half a checkpoint is removed, the error has its remedy, and with room again the run ends as any other."""
    out, write = tmp_path / "output", LearnerState.write

    def fill(self: LearnerState, folder: Path) -> None:
        write(self, folder)
        if folder.resolve().name.startswith("00000004"):
            (folder / "ema.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    tables: dict[str, Any] = {"train": {"steps": 6, "batch": 4, "micro_batch": 4}, "save": {"every": 2}}
    with monkeypatch.context() as patched:
        patched.setattr(LearnerState, "write", fill)
        with pytest.raises(TrainingStopped, match=r"checkpoint of update 4 could not .*No space left.*Make room"):
            train(make_recipe(place, out, **tables))
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000002"]
    said: list[str] = []
    train(make_recipe(place, out, **tables), say=said.append)
    assert "going on from update 2" in said
    train(make_recipe(place, tmp_path / "whole", **tables))
    assert equal(weights(out), weights(tmp_path / "whole"))
