"""Rows of datasets, as they are stored, into the shards of another: one shard after another, and none twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from condprep.building.output_folder import layout_of
from condprep.building.plan import Plan
from condprep.curation.rows import StoredRow
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts, Row, ShardWriter
from condprep.engines.commits import Commits
from condprep.errors import DatasetError
from condprep.runtime.own import remove_tree
from condprep.runtime.progress import Progress
from condprep.types import Reject
from condprep.verification.unfinished import kept_rows

SHARD_ROWS, SHARD_BYTES = 1000, 500_000_000  # where the dataset does not say


@dataclass(frozen=True)
class Copy:
    """What is copied to where. Rows come in order, so what is missing is all from the first missing shard on."""

    layout: Layout
    plan: Plan
    schema: pa.Schema
    suffix: str
    shard_bytes: int
    progress: Callable[[Progress], None]

    def run(
        self, outcomes: Callable[[int], Iterator[Row | Reject]], beside: Callable[[Path], None] = lambda _: None
    ) -> int:
        """Write the shards that are missing; how many rows were there already.

        outcomes: those of the plan from this number on. beside: writes what belongs to the shard in this folder, too.
        """
        pending = self.pending()
        resumed = done = self.plan.inputs - sum(map(self.plan.rows, pending))
        rows, rejects = outcomes(done), 0
        with Commits(self.layout.commit_shard, lambda *_: None, self.layout.target is not None) as commits:
            for shard in pending:
                with ShardWriter(self.layout.shard(shard), self.schema, self.suffix, self.shard_bytes) as writer:
                    for outcome in islice(rows, self.plan.rows(shard)):
                        writer.add(outcome)
                        done, rejects = done + 1, rejects + isinstance(outcome, Reject)
                        self.progress(Progress("build", done, self.plan.inputs, rejects))
                    beside(writer.folder_under_way)
                commits.add(shard, writer.counts)
            commits.finish()
        return resumed

    def pending(self) -> range:
        """The first shard that is not there, and all after it; none of a dataset that is finished."""
        shards = self.plan.shards
        if self.layout.done.exists():
            return range(shards, shards)
        first = next((number for number in range(shards) if not self.layout.shard(number).exists()), shards)
        for shard in range(first, shards):
            remove_tree(self.layout.shard(shard), ignore_errors=True)
        return range(first, shards)

    def counts(self) -> list[Counts]:
        """Of all shards, once they are there."""
        return [Counts.load(self.layout.shard(shard) / "counts.json") for shard in range(self.plan.shards)]


def source_scores(layout: Layout) -> Path:
    """Those of the dataset that is copied to `layout`, while it is verified: what a run that is stopped goes on from."""
    return layout.target.scores if layout.target else layout.private / "source.verify.parquet"


def kept_copies(out: str) -> str | None:
    """How much of a curation that was stopped is on disk, in words: rows that were measured, later rows that were copied."""
    layout = layout_of(out)
    plan = Plan.load(layout.private)
    if plan is None:
        return kept_rows(source_scores(layout))
    done = sum(plan.rows(shard) for shard in range(plan.shards) if layout.shard(shard).exists())
    return f"{done:,} of {plan.inputs:,} rows are copied"


def readable(row: StoredRow, dataset: Path) -> StoredRow:
    """The row. Raises DatasetError where its file is damaged: nothing is left out here."""
    if row.values is None:
        raise DatasetError(
            f"row {row.number} of {dataset} cannot be read; `condprep verify` tells which file is damaged, and "
            "`condprep curate --drop unreadable` makes a dataset without it"
        )
    return row
