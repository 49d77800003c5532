"""The plan on disk: a row group a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from condprep.building import plan as module
from condprep.building.plan import make_plan
from condprep.types import Entry, Note

MOST = 2**20  # rows of a row group where pyarrow is not told otherwise


class Listing:
    """A source that lists one input more than fits into a row group by itself."""

    def entries(self, note: Note) -> Iterator[Entry]:
        return repeat(Entry("1.png", "1"), MOST + 1)


def empty(rows: Sequence[object], schema: pa.Schema) -> pa.RecordBatch:
    """As many rows, with nothing in them: to fill a million, and to sum them up, is nearly all of the time, and tested elsewhere."""
    return pa.RecordBatch.from_arrays([pa.nulls(len(rows), field.type) for field in schema], schema=schema)


def test_a_shard_is_a_row_group_however_many_inputs_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shard holds is read back as one row group: a shard of more than 2**20 inputs loses none of them."""
    monkeypatch.setattr(module, "record_batch", empty)
    monkeypatch.setattr(module, "_row", lambda entry: {})
    monkeypatch.setattr(module, "add_to_digest", lambda digest, entry: None)
    plan = make_plan(tmp_path, Listing(), {}, shard_rows=2 * MOST, seen=lambda _: None)  # type: ignore[arg-type]
    stored = pq.ParquetFile(tmp_path / "plan.parquet").metadata
    assert (plan.shards, stored.num_row_groups) == (1, 1)
    assert plan.rows(0) == stored.row_group(0).num_rows == MOST + 1
