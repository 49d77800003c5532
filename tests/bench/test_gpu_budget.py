"""`python -m bench gpu`: what is found stays, whatever becomes of a part, of the budget, or of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import environment
from bench.gpu import budget, parsed
from bench.gpu.parts import PARTS, Part
from bench.gpu.table import LINES, WIDTH, table

# Parts that find one figure and then do something: argv is FILE WHAT
PART = """
import sys, time
from pathlib import Path
from bench.gpu.figures import Figures
file, what = sys.argv[1:]
figures = Figures(Path(file))
figures.add("speed", 12.5, "pictures/s", what)
if what == "hang":
    time.sleep(600)
if what == "crash":
    import os
    os.abort()
figures.say("it went well")
"""
FAKE = {
    "device": ("well", Part("a part that goes well", 1, 60)),
    "tests": ("hang", Part("a part that hangs", 1, 30)),
    "build": ("crash", Part("a part that crashes", 1, 60)),
    "sdxl": ("well", Part("a part that needs more time than is left", 10_000, 10_000)),
}


def command(name: str, file: Path, *_: Any) -> list[str]:
    return [sys.executable, "-c", PART, str(file), FAKE[name][0]]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_command", command)
    for name, (_, part) in FAKE.items():
        monkeypatch.setitem(PARTS, name, Part(part.about, part.least, part.limit / (1 if part.limit > 10 else 10)))


class Clock:
    """Tells budget the time: a part that hangs has had all of its own once it has told what it found, be it soon or late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, put = 0.0, budget.Report.put

        def noticed(report: budget.Report, name: str, status: str, *rest: Any, **further: Any) -> None:
            put(report, name, status, *rest, **further)
            if name == "tests" and status == "running" and report.parts[name]["figures"]:
                self.ahead = 10 * PARTS[name].limit

        monkeypatch.setattr(budget.Report, "put", noticed)
        monkeypatch.setattr(budget, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def parts_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "gpu.json").read_text())["parts"]


@pytest.mark.slow
@pytest.mark.usefixtures("fakes")
def test_a_part_that_hangs_or_crashes_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends as it must and keeps what it had found; one that does not fit any more is named with the reason."""
    Clock(monkeypatch)
    code = budget.run_all(parsed(["--tiny", "--out", str(tmp_path), "--parts", *FAKE]))
    found = parts_of(tmp_path)
    assert {name: part["status"] for name, part in found.items()} == {
        "device": "done",
        "tests": "cut",
        "build": "failed",
        "sdxl": "skipped",
    }
    assert all(found[name]["figures"][0]["value"] == 12.5 for name in ("device", "tests", "build"))
    assert "s of the budget were left, and it needs 10000 s" in found["sdxl"]["why"]
    assert code == 1
    text = (tmp_path / "gpu.txt").read_text()
    assert text in capsys.readouterr().out
    assert "-> it went well" in text
    assert text.count("12.5 pictures/s") == 3


@pytest.mark.usefixtures("fakes")
def test_a_spent_budget_begins_nothing(tmp_path: Path) -> None:
    """Every part is skipped by name, and the files are there."""
    assert budget.run_all(parsed(["--tiny", "--budget", "2", "--out", str(tmp_path)])) == 0
    assert {part["status"] for part in parts_of(tmp_path).values()} == {"skipped"}
    assert parts_of(tmp_path).keys() == PARTS.keys()


STOPPED = """
import sys
from bench.gpu import budget, parsed
sys.path.insert(0, {folder!r})
from test_gpu_budget import command
budget._command = command
sys.exit(budget.run_all(parsed(["--tiny", "--out", {out!r}, "--parts", "device", "tests"])))
"""


@pytest.mark.slow
def test_a_signal_ends_it_with_what_is_known(tmp_path: Path) -> None:
    """SIGTERM ends the part that runs, writes table and JSON, and leaves no process behind."""
    code = STOPPED.format(folder=str(Path(__file__).parent), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + 1800
    while time.monotonic() < deadline and not _hangs(tmp_path):
        time.sleep(0.2)
    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == 1
    assert [part["status"] for part in parts_of(tmp_path).values()] == ["done", "cut"]
    assert parts_of(tmp_path)["tests"]["figures"][0]["note"] == "hang"
    assert (tmp_path / "gpu.txt").read_text() in out
    assert children
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def _hangs(out: Path) -> bool:
    return (out / "gpu.json").exists() and bool(parts_of(out).get("tests", {}).get("figures"))


def test_the_table_fits_the_end_of_a_log() -> None:
    """At most 60 lines, with every part's heading and what it shows, however much was found."""
    figures = [{"what": f"figure {n}", "value": n / 3, "unit": "GB/s", "note": "x" * 300} for n in range(40)]
    parts = {
        name: {
            "about": "a part",
            "status": "done",
            "seconds": 1.0,
            "why": "",
            "shows": f"{name} works",
            "figures": figures,
        }
        for name in PARTS
    }
    lines = table(parts, tiny=True).splitlines()
    assert len(lines) <= LINES == 60
    assert max(map(len, lines)) <= WIDTH
    assert all(any(line.startswith(f"{name}: done") for line in lines) for name in PARTS)
    assert all(f"  -> {name} works" in lines for name in PARTS)
    assert "more are in gpu.json" in table(parts, tiny=False)
