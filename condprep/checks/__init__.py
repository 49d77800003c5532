"""The table of checks: what makes a pair wrong. `condprep.verify` runs them; docs/checks.md has a paragraph for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condprep.checks.base import Group


def groups() -> Sequence[Group]:
    """Every group of checks, in the order in which they are run and shown."""
    from condprep.checks import condition, structure

    return (structure.GROUP, condition.GROUP)
