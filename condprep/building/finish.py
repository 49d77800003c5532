"""After the last shard: final names, what `datasets` reads, and the card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa

from condprep import __version__
from condprep.building.options import BuildOptions
from condprep.building.parts import forget_parts
from condprep.building.plan import Plan, forget_seal
from condprep.building.retry_rejects import forget
from condprep.dataset.card import write_card
from condprep.dataset.columns import datasets_features
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.shards import Counts
from condprep.errors import DatasetError
from condprep.runtime.files import commit_json
from condprep.runtime.progress import Progress

Provenance = Mapping[str, Any]


class Built(Protocol):
    """A build whose shards are all there."""

    @property
    def layout(self) -> Layout: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def options(self) -> BuildOptions: ...
    @property
    def columns(self) -> Mapping[str, pa.DataType]: ...
    @property
    def progress(self) -> Callable[[Progress], None]: ...


def finish(
    builder: Built,
    rejects: bytes = b"",
    merge: Callable[[Provenance], Provenance] = lambda provenance: provenance,
) -> None:
    """Put the shards in their places, and write `done.json` last: killed before that, it can be repeated.

    Where columns are added to a dataset, rejects: its rejects.jsonl; merge: adds what was made to its provenance.
    """
    layout, plan = builder.layout, builder.plan
    builder.progress(Progress("finish", plan.inputs, plan.inputs))
    counts = [Counts.load(layout.shard(shard) / "counts.json") for shard in range(plan.shards)]
    total = place_files(layout, counts, datasets_features(builder.columns), builder.options.format, plan.id, rejects)
    if total.rows:
        write_card(layout, merge(_provenance(builder, total)), {file["name"]: file["rows"] for file in total.files})
    commit_json(layout.private / "shards.json", [vars(shard) for shard in counts])  # for `--retry-rejects`
    commit_json(layout.done, vars(total))
    layout.publish(file["name"] for file in total.files)


def _provenance(builder: Built, total: Counts) -> Provenance:
    options, config = builder.options, builder.plan.config
    return {
        "condprep": __version__,
        "annotators": config["annotators"],
        "primary": options.condition,
        "machine": config["machine"],
        "geometry": asdict(options.geometry),
        "source": config["requested"]["source"],
        "format": options.format,
        "counts": {"inputs": builder.plan.inputs} | total.figures(),
    }


def finished(layout: Layout) -> Counts:
    """The counts of a finished dataset; what is left of its building is removed. Raises DatasetError where a file is gone."""
    layout.remove_shards()
    forget(layout)
    forget_parts(layout)
    forget_seal(layout.private)
    counts = Counts.load(layout.done)
    for file in counts.files:
        if not (layout.root / file["name"]).exists():
            raise DatasetError(f"{layout.root / file['name']} is gone; start afresh with --overwrite")
    return counts
