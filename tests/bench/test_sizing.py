"""`python -m bench sizing`: docs/scale.md has what it computes."""

from __future__ import annotations

from pathlib import Path

from bench.sizing import ASSUMED, MEASURED, line, markdown

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_page_has_the_tables_that_the_formula_gives() -> None:
    """Whoever changes a figure changes the page: `python -m bench sizing --markdown` prints both tables."""
    page = PAGE.read_text(encoding="utf-8")
    for table in markdown([1e6, 1e8, 1e9], 64).split("\n\n"):
        assert table in page


def test_the_formula_is_the_one_that_the_page_explains() -> None:
    """Pictures by the rate of the slower of GPUs and cores, plus what the driver costs; money is hours and requests."""
    shards = 1e8 / ASSUMED["rows a shard"]
    driver = shards * MEASURED["driver's milliseconds a shard"] / 3.6e6
    one = line(1e8, "depth", 64)
    assert abs(one.hours - driver - 1e8 / (64 * 900 / 2) / 3600) < 1e-9
    assert line(1e8, "depth", 128).hours < one.hours
    assert one.dollars > one.hours * 64 * ASSUMED["dollars a GPU-hour, its cores included"]
