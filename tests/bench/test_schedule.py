"""`python -m bench schedule`: the pipeline that it runs is the real one."""

from __future__ import annotations

from bench.schedule import SHAPES, Times, measure


def test_all_pictures_go_through_the_device_in_batches() -> None:
    """Sleeping stand-ins leave nothing out: 17 shapes, two annotators, and no batch above its size."""
    found = measure(Times(device=1e5, annotators=2, workers=2, prepare=0, encode=0, stop=0), 300, len(SHAPES))
    assert len(SHAPES) == 17
    assert 1 < found["batch"] <= 32
    assert 0 < found["busy"] <= 1
