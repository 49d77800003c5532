"""Rows that a recipe holds out by itself, `data.validation = 0.02`, and those that are left to train on.

They are chosen by their keys, as `condprep split` does it: a row keeps its side when others are added or taken away, on every
process, and when a run goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa

from condprep.dataset.splits import group_of, split_of
from trainer.data.tables import Names
from trainer.errors import DataError
from trainer.recipe.recipe import Data

USUAL = ("validation", "valid", "val", "dev")  # what splits of held-out rows are called
_SHA256 = re.compile("[0-9a-f]{64}")


def refuse_second_share(data: Data, splits: Sequence[str]) -> None:
    """Raises DataError where a share is to be held out of a dataset that has held-out rows. splits: that it has."""
    there = [name for name in USUAL if name in splits and name != data.split]
    if data.share and there:
        raise DataError(
            f"data.validation = {data.validation}, but {data.path} has held-out rows already, in its split {there[0]!r}: say "
            f'data.validation = "{there[0]}" (of evaluate: --split {there[0]})'
        )


def has_validation(data: Data, splits: Sequence[str]) -> bool:
    """Raises DataError for a split that was named and is not there; the default may be missing. splits: that the dataset has."""
    name, default = data.validation, Data.model_fields["validation"].default
    if not isinstance(name, str):
        return True  # its rows are of the split that is trained on
    if name and name != default and name not in splits:
        raise DataError(f"data.validation = {name!r}, but {data.path} has {', '.join(splits)}")
    return name in splits


def chosen(table: pa.Table, names: Names, data: Data, held_out: bool) -> Sequence[int]:
    """The numbers of the rows on one side of `data.validation`, a share. Raises DataError where one side is empty."""
    deciding = _groups(table, names, data) if data.validation_by == "group" else _keys(table, names, data.split)
    is_held = [split_of(_hashed(one), data.share) == "validation" for one in deciding]
    if all(is_held) or not any(is_held):
        side = "all" if all(is_held) else "none"
        raise DataError(
            f"data.validation = {data.validation} holds out {side} of the {len(is_held):,} rows of split {data.split!r} of "
            f"{data.path}: say a {'smaller' if all(is_held) else 'larger'} share"
        )
    return [number for number, held in enumerate(is_held) if held == held_out]


def _keys(table: pa.Table, names: Names, split: str) -> list[str]:
    """What the dataset calls its rows, which may be nothing but their place."""
    keys = table.column(names.key).to_pylist() if names.key else [None] * table.num_rows
    return [f"{split}:{number}" if key is None else str(key) for number, key in enumerate(keys)]


def _groups(table: pa.Table, names: Names, data: Data) -> list[str]:
    """The folder, or tar, that each row's picture comes from."""
    sources: list[Any] = table.column(names.source).to_pylist() if names.source else [None]
    if None in sources:
        raise DataError(
            f'data.validation_by = "group", but {data.path} does not say in a column `source` where each picture comes from: '
            'say data.validation_by = "key"'
        )
    groups = [group_of(source) for source in sources]
    if len(set(groups)) < 2:
        raise DataError(
            f'data.validation_by = "group", but all rows of split {data.split!r} of {data.path} come from one folder or tar: '
            'say data.validation_by = "key"'
        )
    return groups


def _hashed(deciding: str) -> str:
    """condprep's keys are sha256 already."""
    return deciding if _SHA256.fullmatch(deciding) else sha256(deciding.encode("utf-8", "surrogatepass")).hexdigest()
