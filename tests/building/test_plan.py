"""The plan on disk: a row group a shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from condprep.building.plan import make_plan
from condprep.types import Entry, Note

MOST = 2**20  # rows of a row group where pyarrow is not told otherwise


class Listing:
    """A source that lists one input more than fits into a row group by itself."""

    def entries(self, note: Note) -> Iterator[Entry]:
        return (Entry(f"{number}.png", "1") for number in range(MOST + 1))


@pytest.mark.slow
def test_a_shard_is_a_row_group_however_many_inputs_it_has(tmp_path: Path) -> None:
    """What a shard holds is read back as one row group: a shard of more than 2**20 inputs loses none of them."""
    plan = make_plan(tmp_path, Listing(), {}, shard_rows=2 * MOST, seen=lambda _: None)  # type: ignore[arg-type]
    stored = pq.ParquetFile(tmp_path / "plan.parquet").metadata
    assert (plan.shards, stored.num_row_groups) == (1, 1)
    assert plan.rows(0) == stored.row_group(0).num_rows == MOST + 1
