"""A plugin of pytest: one line of JSON for every test that is over, in the file that BENCH_OUTCOMES names."""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """With xdist, the process that shares the tests out is told of all of them; the others write nothing."""
    if os.environ.get("PYTEST_XDIST_WORKER") or (report.when != "call" and report.passed):
        return
    why = str(report.longrepr).strip().splitlines()[-1:] if report.failed else []
    line = {
        "test": report.nodeid.rpartition("/")[2],
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        "why": why[0][:200] if why else "",
    }
    with open(os.environ["BENCH_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
