"""Which rows are held out: that follows from a row's key alone, so a picture keeps its split wherever it is built again."""

from __future__ import annotations

from hashlib import sha256
from math import ceil
from typing import Literal, get_args

By = Literal["key", "group"]  # what decides where a row goes: its own key, or the group that it is of
BY: tuple[By, ...] = get_args(By)


def split_of(key: str, validation: float) -> str:
    """key: sha256, hex. validation: the share of all keys that is held out; a larger one holds the same ones out, and more."""
    return "validation" if int(key[:16], 16) < validation * 2**64 else "train"


def split_by(by: By, key: str, source: str, validation: float) -> str:
    """The same, for all pictures of a group alike where `by` says so."""
    return split_of(key if by == "key" else sha256(group_of(source).encode()).hexdigest(), validation)


def enough(rows: int) -> float:
    """A share that is likely to hold some of so many rows out: 0.02, of few rows more, since each key decides for itself."""
    return min(0.5, max(0.02, ceil(400 / rows) / 100))


def group_of(source: str) -> str:
    """What pictures have in common that are held out together: the folder of a file; of a member its tar, and the folder in it."""
    tar, inside, member = source.rpartition(".tar#")
    return tar + inside + member.rpartition("/")[0]
