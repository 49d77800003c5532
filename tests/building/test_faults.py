"""Faults: killed, interrupted, without space. What was committed stays, and the end is the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk
from support.datasets import tree
from support.pictures import encoded, smooth
from support.thorough import examples

from condprep import build
from condprep.errors import BuildFailed

KILLS = examples(60, 1000)
# `condprep`, with a signal to itself when the third shard is about to take its place.
INTERRUPTED = """
import os, runpy, sys
number = int(sys.argv.pop(1))
def hook(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[1]) == "000002":
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
runpy.run_module("condprep", run_name="__main__")
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at 60 moments and more (random file operations, random calls), each resumed with other workers."""
    for number in range(8):
        path = tmp_path / "raw" / str(number % 2) / f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if number == 5 else encoded(smooth(64 + 8 * (number % 3), 64, number)))
    program = [sys.executable, "-m", "support.chaos", tmp_path / "raw", tmp_path, "0", str(KILLS)]
    paths = os.pathsep.join(map(str, Path(__file__).parents[1:3]))
    done = subprocess.run(program, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert set(report["statuses"]) == {0}, done.stderr
    assert report["kills"] >= KILLS
    whole = tree(tmp_path / "whole" / "operations")
    assert len(whole) > 10
    assert tree(tmp_path / "whole" / "calls") == whole
    for number in range(len(report["statuses"])):
        assert tree(tmp_path / f"killed{number}") == whole
    assert load_from_disk(str(tmp_path / "whole" / "operations"))["train"].num_rows > 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_says_how_to_go_on(raw: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and a cluster's SIGTERM: exit code 1, one line with the remedy, no stack trace; the next run finishes."""
    for copy in range(60):
        shutil.copy(raw / "group0" / "00.jpg", raw / f"copy{copy:02d}.jpg")
    command = [sys.executable, "-c", INTERRUPTED, str(number.value), "build", raw, "-a", "canny"]
    command += ["--out", tmp_path / "ds", "--shard-size", "6", "--resolution", "128", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    kept = re.search(r"stopped; (\d+) of 72 pictures are kept, and the same command goes on from there", done.stderr)
    assert kept, done.stderr
    assert "Traceback" not in done.stderr
    result = build(raw, tmp_path / "ds", "canny", shard_rows=6, resolution=128)
    assert result.rows == {"train": 72}
    assert 12 <= result.resumed < 72
    assert result.resumed == int(kept[1])


def test_a_full_disk_stops_with_its_remedy_and_loses_nothing(raw: Path, tmp_path: Path) -> None:
    """On a small tmpfs: BuildFailed that says what to do; with room made, the build goes on to the same bytes."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    options = {"resolution": 512, "shard_rows": 4, "max_upscale": 4}
    try:
        with pytest.raises(BuildFailed, match="No space left on device; make room, then run the same command again"):
            build(raw, small / "ds", "canny", **options)
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert build(raw, small / "ds", "canny", **options).rows == {"train": 12}
        build(raw, tmp_path / "whole", "canny", **options)
        assert tree(small / "ds") == tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_crash_leaves_no_lock_behind(raw: Path, tmp_path: Path) -> None:
    """A process that dies while it holds the lock does not keep the next one out."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom condprep.building.output_folder import locked\nfrom condprep.dataset.layout import Layout\n"
        "with locked(Layout(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, tmp_path / "ds"], check=False)
    assert died.returncode == -signal.SIGKILL
    assert build(raw, tmp_path / "ds", "canny", resolution=128).rows == {"train": 12}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read and write everything")
def test_an_output_that_cannot_be_written_is_said(raw: Path, tmp_path: Path) -> None:
    """A read-only parent folder: an error that names it, not a stack trace."""
    (tmp_path / "locked").mkdir(mode=0o500)
    command = [sys.executable, "-m", "condprep", "build", raw, "-a", "canny", "--out", tmp_path / "locked" / "ds"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "locked") in done.stderr
