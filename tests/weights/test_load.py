"""Reading checkpoints: what fits comes back equal; what is damaged, foreign or hostile is refused and named."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from condprep.errors import WeightsError
from condprep.weights.find import WeightFile, load_into, load_state_dict


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _file(path: Path) -> WeightFile:
    return WeightFile("small.pth", path, "", pinned=False)


def test_checkpoints_come_back_equal(tmp_path: Path) -> None:
    """A state dict saved by torch or by safetensors is read back tensor by tensor, and fits its module."""
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        state = load_state_dict(_file(path))
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
        load_into(other, state, _file(path))
        assert torch.equal(other.weight, module.weight)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_runs_code_does_not(tmp_path: Path, legacy: bool) -> None:
    """A checkpoint that is a program is refused and its code does not run, in torch's old and new format."""
    marker, path = tmp_path / "it ran", tmp_path / "bomb.pth"
    torch.save({"weight": _Bomb(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"bomb\.pth"):
        load_state_dict(_file(path))
    assert not marker.exists()
    raw = tmp_path / "raw.pth"
    raw.write_bytes(pickle.dumps(_Bomb(marker), protocol=2))
    with pytest.raises(WeightsError, match=r"raw\.pth"):
        load_state_dict(_file(raw))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "html", "empty"])
def test_damaged_checkpoints_are_named(tmp_path: Path, name: str, damage: str) -> None:
    """A truncated file, a web page under the name of a checkpoint and an empty file are errors that name the file."""
    path = tmp_path / name
    state = {"weight": torch.zeros(1000)}
    torch.save(state, path) if path.suffix == ".pth" else path.write_bytes(save(state))
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "html": b"<!doctype html>" * 99, "empty": b""}[damage])
    with pytest.raises(WeightsError, match=f"{name} cannot be read as a checkpoint"):
        load_state_dict(_file(path))


def test_a_checkpoint_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A checkpoint that is small on disk and huge when unpacked is refused before it is unpacked."""
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as source,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in source.namelist():
            bomb.writestr(member, source.read(member))
    with pytest.raises(WeightsError, match="unpack to 4"):
        load_state_dict(_file(tmp_path / "bomb.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {0: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    """A file that torch reads but that holds something else than tensors by name is an error."""
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        load_state_dict(_file(tmp_path / "a.pth"))


def test_a_checkpoint_of_another_model_is_described(tmp_path: Path) -> None:
    """Missing and unexpected keys and other shapes are all named, and the module stays untouched."""
    module = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(3)])
    before = module[0].weight.clone()
    state = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(5), "head.weight": torch.zeros(1)}
    with pytest.raises(WeightsError) as error:
        load_into(module, state, _file(tmp_path / "a.pth"))
    assert "missing 1.weight, 1.bias, 2.weight and 1 more" in str(error.value)
    assert "unexpected head.weight" in str(error.value)
    assert "of another shape 0.bias" in str(error.value)
    assert torch.equal(module[0].weight, before)
