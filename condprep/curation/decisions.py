"""What becomes of each row of a dataset that is curated, as it is kept between deciding and copying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.curation.drops import Drop

DECISIONS = pa.schema(
    {"row": pa.int64(), "drop": pa.string(), "reason": pa.string(), "repairs": pa.list_(pa.string())}
)  # drop: where there are repairs, what becomes of the row when they fail


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a row that is not copied as it is."""

    drop: Drop | None = None  # left out
    repairs: tuple[str, ...] = ()  # done first
    otherwise: Drop | None = None  # left out where they fail; None: then it is copied as it is


def store(decisions: Mapping[int, Decision], path: Path) -> None:
    """Write the decisions, by row, to a Parquet file at `path`."""
    rows = []
    for row, one in sorted(decisions.items()):
        drop = one.drop or one.otherwise
        rows.append({"row": row, "drop": drop and drop.name, "reason": drop and drop.reason, "repairs": one.repairs})
    pq.write_table(pa.Table.from_pylist(rows, DECISIONS), path)


def load(path: Path) -> dict[int, Decision]:
    """row -> its decision, as `store` wrote them."""
    found = {}
    for row in pq.read_table(path).to_pylist():
        drop = Drop(row["drop"], row["reason"]) if row["drop"] else None
        repairs = tuple(row["repairs"])
        found[row["row"]] = Decision(None, repairs, drop) if repairs else Decision(drop)
    return found
