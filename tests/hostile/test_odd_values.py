"""Odd but possible values end in an error that names them."""

from __future__ import annotations

import pytest

from condprep.building.options import parse_shard_size
from condprep.errors import UsageError


@pytest.mark.parametrize("text", ["²", "1²MB", "٣", "", ",", "1e3", "-5", "０"])
def test_sizes_are_written_in_ascii_digits(text: str) -> None:
    """Digits that Python's int() refuses, or that are of another script, are no size of a shard."""
    with pytest.raises(UsageError, match="--shard-size"):
        parse_shard_size(text)
