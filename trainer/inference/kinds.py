"""The kinds of conditions that the record of a result names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def kinds_of(condition: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Of a record's conditions. Raises KeyError, TypeError or AttributeError for what is no record."""
    return tuple(one["kind"] for one in condition.get("conditions", [condition]))


def all_kinds(kinds: Sequence[str | None]) -> str | None:
    """For people: "canny, depth"; None where it is not clear."""
    return ", ".join(kind for kind in kinds if kind) or None
