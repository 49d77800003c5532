"""`python -m trainer app`: it tells its address, answers there and nowhere else, and ends by Ctrl-C in a sentence."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from condprep.errors import UsageError
from trainer.app.address import address_of, is_local, listen, names_of
from trainer.cli import main as cli


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of `python -m trainer app ...`."""
    monkeypatch.setattr(sys, "argv", ["trainer", "app", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def test_it_answers_until_ctrl_c(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A free port; the address alone on standard output, and in the browser where that is asked for; the exit code of other verbs."""
    seen: list[str] = []

    def browse(address: str) -> None:
        def visit() -> None:
            try:
                with urllib.request.urlopen(address) as answer:
                    seen.extend((address, answer.read().decode()))
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=visit).start()

    monkeypatch.setattr("typer.launch", browse)
    code, out, err = run(monkeypatch, capsys, output, "--port", 0, "--open", "--device", "cpu")
    assert code == 1
    assert out == f"{seen[0]}\n"
    assert seen[0].startswith("http://127.0.0.1:")
    assert "Canny ControlNet" in seen[1]
    assert err.splitlines()[-1] == "error: stopped"
    assert not any(thread.name == "drawing" and thread.is_alive() for thread in threading.enumerate())


def test_what_is_missing_is_said_first(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """No result, an address in use, a host that is none: exit code 2 and a sentence, before anything listens for long."""
    code, out, err = run(monkeypatch, capsys, tmp_path, "--port", 0)
    assert (code, out, "holds no result of the trainer" in err) == (2, "", True)
    with listen("127.0.0.1", 0) as taken:
        code, _, err = run(monkeypatch, capsys, output, "--port", taken.getsockname()[1])
    assert (code, "Address already in use; --port 0 takes a free one" in err) == (2, True)
    code, _, err = run(monkeypatch, capsys, output, "--host", "no host")
    assert (code, "error: --host no host: " in err) == (2, True)


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """With the line that installs it, before the run is looked at."""
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run(monkeypatch, capsys, "nowhere")
    assert (code, err) == (2, f"error: the page needs {package}: pip install 'condprep[app]'\n")


def test_names_are_those_of_this_machine() -> None:
    """At a loopback address nothing but it; where others may come, the machine's own names and addresses as well."""
    assert names_of("127.0.0.1") == ["127.0.0.1", "[::1]", "localhost"]
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "gpu.lab")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert {socket.gethostname().lower(), "localhost"} <= {name.lower() for name in names_of("0.0.0.0")}
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        shown = {host: address_of(listening, host) for host in ("0.0.0.0", "::", "::1", "gpu.lab")}
    assert shown == {
        "0.0.0.0": f"http://127.0.0.1:{port}/",
        "::": f"http://[::1]:{port}/",
        "::1": f"http://[::1]:{port}/",
        "gpu.lab": f"http://gpu.lab:{port}/",
    }
    with pytest.raises(UsageError, match="--port 0 takes a free one"):
        listen("203.0.113.1", 0)
