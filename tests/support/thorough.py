"""How many examples a random law is tried with: a fifth in `make test`, all in `make test-all`, more with CONDPREP_THOROUGH."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

quick = False  # set by conftest.py before a test's module is read


def share(whole: int) -> int:
    """All examples where slow tests run, too; else a fifth, but twenty."""
    return min(whole, max(20, whole // 5)) if quick else whole


def examples(usual: int, thorough: int) -> int:
    """`thorough` where CONDPREP_THOROUGH is set. The examples are others in every run, so that runs add up."""
    return thorough if os.environ.get("CONDPREP_THOROUGH") else usual


def slow_ones(values: Iterable[Any]) -> list[Any]:
    """Values of a test's parameter that `make test` leaves out, since the others hold to the same law."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
