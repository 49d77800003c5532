"""The rehearsal: what travels to another machine, and where Python finds it there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench import CHECKOUT, environment
from bench.gpu import parsed, rehearse


def test_what_git_ignores_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are tracked or would be are copied; ignored ones are not, nor what was there from an earlier time."""
    checkout, copy = tmp_path / "checkout", tmp_path / "copy"
    for name, text in {".gitignore": "/secret\n", "tracked/a.py": "1", "new.py": "2", "secret": "3"}.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(["git", "-C", str(checkout), "add", ".gitignore", "tracked"], check=True)
    copy.mkdir()
    (copy / "old.py").write_text("4")
    monkeypatch.setattr(rehearse, "CHECKOUT", checkout)
    rehearse.copy_tree(copy)
    assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()) == [
        ".gitignore",
        "new.py",
        "tracked/a.py",
    ]


def test_packages_that_were_carried_are_found_by_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH may hold what an image lacks: the checkout goes before it and replaces nothing."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("/carried", "/also")))
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(CHECKOUT), "/carried", "/also"]
    assert environment(HF_HUB_OFFLINE="1")["HF_HUB_OFFLINE"] == "1"
    monkeypatch.delenv("PYTHONPATH")
    assert environment()["PYTHONPATH"] == str(CHECKOUT)


def test_small_runs_have_the_budget_of_small_ones() -> None:
    """On a machine that does other things --tiny, and the rehearsal with it, may take long; a GPU's minutes are counted."""
    assert parsed([]).budget == 480
    assert parsed(["--tiny"]).budget == parsed(["--rehearse"]).budget == 3600
    assert parsed(["--rehearse", "--budget", "100"]).budget == 100


def test_a_peer_that_is_not_there_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip in a path costs no minute of a GPU."""
    with pytest.raises(SystemExit):
        parsed(["--peer", "nowhere/train_controlnet.py"])
    assert "--peer nowhere/train_controlnet.py: there is no such file" in capsys.readouterr().err
