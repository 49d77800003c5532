"""Running the parts within the budget: each in a process of its own, what it found merged into one file as it comes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from bench import environment
from bench.gpu.figures import read_figures
from bench.gpu.parts import PARTS
from bench.gpu.table import table
from condprep.runtime.files import commit_text

GRACE = 5  # seconds that a part has to end, once it is told to
RESERVE = 3  # seconds of the budget for the table


class Stopped(Exception):
    """SIGTERM or Ctrl-C."""


@dataclass
class Report:
    """gpu.json: what is known of every part."""

    out: Path
    tiny: bool
    began: float = field(default_factory=time.monotonic)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(
        self, name: str, status: str, seconds: float = 0.0, why: str = "", found: Mapping[str, Any] | None = None
    ) -> None:
        """status: running, done, failed, cut or skipped."""
        self.parts[name] = {
            "about": PARTS[name].about,
            "status": status,
            "seconds": round(seconds, 1),
            "why": why,
            **(found or {"figures": [], "shows": ""}),
        }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        whole = {
            "date": now,
            "tiny": self.tiny,
            "seconds": round(time.monotonic() - self.began, 1),
            "parts": self.parts,
        }
        commit_text(self.out / "gpu.json", json.dumps(whole, indent=1))

    def end(self) -> None:
        commit_text(self.out / "gpu.txt", text := table(self.parts, self.tiny))
        print(text, flush=True)


def run_all(options: argparse.Namespace) -> int:
    """The exit code: 0 where no part failed."""
    import torch

    if not options.tiny and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device: --tiny runs every part, small, on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out, options.tiny)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        with (options.out / "log.txt").open("wb") as log, tempfile.TemporaryDirectory() as work:
            for name in [name for name in PARTS if name in options.parts]:
                _part(name, options, report, Path(work), log)
    except Stopped:
        print("stopped: this is what is known", flush=True)
    report.end()
    return int(any(part["status"] not in ("done", "skipped") for part in report.parts.values()))


def _stop(*_: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # what is there is written whatever else comes
    raise Stopped


def _part(name: str, options: argparse.Namespace, report: Report, work: Path, log: BinaryIO) -> None:
    part, left = PARTS[name], options.budget - RESERVE - (time.monotonic() - report.began)
    if left < part.least:
        report.put(name, "skipped", why=f"{left:.0f} s of the budget were left, and it needs {part.least:.0f} s")
        return
    limit = min(left, part.limit * (10 if options.tiny else 1))
    file, began = work / f"{name}.json", time.monotonic()
    print(f"{name}: {part.about} ...", flush=True)
    log.write(f"\n=== {name}\n".encode())
    log.flush()
    process = subprocess.Popen(
        _command(name, file, limit, options), stdout=log, stderr=subprocess.STDOUT, env=environment(), process_group=0
    )
    status, why = "cut", "stopped from outside"
    try:
        code = _follow(
            process, limit, lambda: report.put(name, "running", time.monotonic() - began, "", read_figures(file))
        )
        status, why = _outcome(code, limit)
    finally:
        _end(process)
        report.put(name, status, time.monotonic() - began, why, read_figures(file))
        shown = report.parts[name]
        print(f"{name}: {status} in {shown['seconds']} s. {shown['shows'] or why}", flush=True)


def _command(name: str, file: Path, limit: float, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "bench", "gpu", "--part", name, "--file", str(file), "--seconds", f"{limit:.0f}"]
    command += ["--out", str(options.out.absolute())]
    command += ["--tiny"] if options.tiny else []
    return [*command, "--peer", str(options.peer.absolute())] if options.peer else command


def _follow(process: subprocess.Popen[bytes], limit: float, tell: Any) -> int | None:
    """The exit code; None after `limit` seconds. What is found is told as it comes."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            return process.wait(min(1.0, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            tell()
    return None


def _outcome(code: int | None, limit: float) -> tuple[str, str]:
    if code is None:
        return "cut", f"it was ended after {limit:.0f} s; what it had found is here"
    if code:
        return "failed", f"exit code {code}; log.txt says more"
    return "done", ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """The part and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
