"""Damaged bytes for every reader: a minute of what `python -m bench fuzz` does for hours."""

from __future__ import annotations

import random

import pytest
from support.thorough import examples

from bench.fuzz import tried
from bench.fuzz.readers import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_refused_in_words(name: str) -> None:
    """Bits, cuts, numbers and JSON of other shapes: a reader refuses them with an error of condprep's own, or reads them."""
    found = [one for one in tried(name, random.Random(name), examples(60, 5000)) if one]
    assert [one.error for one in found] == []


@pytest.mark.parametrize("name", TARGETS)
def test_sound_input_is_read(name: str, tmp_path: object) -> None:
    """What the fuzzer starts from is no damage: otherwise it would try nothing but the first check."""
    target = TARGETS[name]
    assert all(len(data) > 2 for data in target.seeds())
