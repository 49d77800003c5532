"""Names that came before are known again, however many there are, for a few bytes each."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condprep.runtime import seen
from condprep.runtime.seen import Seen


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60)), st.integers(1, 5), st.integers(1, 16))
def test_it_is_a_set(numbers: list[int], recent: int, longest: int) -> None:
    """Whatever is added, in any order, and wherever its runs begin and end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(seen, "RECENT", recent)
        patched.setattr(seen, "LONGEST", longest)
        found, known = Seen(), set[int]()
        for number in numbers:
            assert found.add(f"{number}.jpg") == (number not in known)
            known.add(number)
        assert [number for number in range(61) if f"{number}.jpg" in found] == sorted(known)


@pytest.mark.slow
def test_a_name_takes_ten_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held at the end; while two runs become one it is no more than twice that."""
    monkeypatch.setattr(seen, "RECENT", 1 << 10)
    tracemalloc.start()
    try:
        found = Seen()
        for number in range(60_000):
            found.add(f"train/{number:08d}.jpg")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "train/00059999.jpg" in found
    assert held < 10 * 60_000 + 100 * (1 << 10)
    assert peak < 20 * 60_000 + 200 * (1 << 10)
