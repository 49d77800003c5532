"""The table of checks: what makes a pair wrong. `condprep.verify` runs them; docs/checks.md has a paragraph for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condprep.verification.check import Group


def groups() -> Sequence[Group]:
    """Every group of checks, in the order in which they are run and shown."""
    from condprep.verification.alignment.checks import ALIGNMENT
    from condprep.verification.condition import CONDITION
    from condprep.verification.quality.checks import CURATION
    from condprep.verification.structure import STRUCTURE

    return (STRUCTURE, CONDITION, ALIGNMENT, CURATION)


def choose_groups(known: Sequence[Group], names: Sequence[str]) -> Sequence[Group]:
    """Those of these names, all for none. Raises UsageError for a name that there is not."""
    from condprep.errors import UsageError
    from condprep.verification.check import nearest

    there = [group.name for group in known]
    if stray := [name for name in names if name not in there]:
        raise UsageError(f"--checks {stray[0]}: no such check{nearest(stray[0], there)}")
    return [group for group in known if not names or group.name in names]
