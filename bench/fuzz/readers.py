"""Every reader of files that others may have made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.fuzz.seeds import (
    arrows,
    counted,
    findings,
    listings,
    manifests,
    metadata_table,
    parquets,
    pictures,
    plans,
    provenances,
    recipes,
    records,
    tars,
)
from condprep.annotation.like import load_like
from condprep.building.plan import SCHEMA, Plan
from condprep.dataset.inspect import summarize
from condprep.dataset.pairs.open import open_pairs
from condprep.dataset.records import provenance, read_record
from condprep.dataset.shards import Counts
from condprep.errors import CondprepError
from condprep.images.decode import decode, header
from condprep.images.exif import jpeg_metadata
from condprep.images.extent import within_its_end
from condprep.sources.base import Source
from condprep.sources.open import open_source
from condprep.sources.text import captions, read_values
from condprep.verification.findings import kept_result

MOST_ROWS = 50  # that are read of an input


@dataclass(frozen=True)
class Target:
    """A reader, and sound inputs of it. read: gets a file whose name ends so, in a folder of its own."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]


def read_picture(path: Path) -> None:
    data = path.read_bytes()
    jpeg_metadata(data)
    within_its_end(data)
    with contextlib.suppress(CondprepError):
        header(data, max_pixels=1_000_000)
    decode(data, max_pixels=1_000_000, allow_truncated=len(data) % 2 == 0)


def read_source(path: Path) -> None:
    source = open_source(path)
    _drain(source)


def _drain(source: Source) -> None:
    for number, entry in enumerate(source.entries()):
        if number == MOST_ROWS:
            return
        if not entry.problem:
            with contextlib.suppress(CondprepError):
                source.read(entry)


def read_listing(path: Path) -> None:
    (path.parent / "a.png").write_bytes(b"")
    _drain(open_source(path.rename(path.with_name(f"metadata{path.suffix}"))))


def read_table(path: Path) -> None:
    """As `verify`, `inspect` and an import see it."""
    with contextlib.suppress(CondprepError):
        summarize(path.parent)
    pairs = open_pairs(path)
    for number, pair in enumerate(pairs):
        if number == MOST_ROWS:
            return
        if not pair.problem:
            with contextlib.suppress(CondprepError):
                read_values(pair.caption)


def read_captions(path: Path) -> None:
    captions(path.read_bytes())


def read_plan(path: Path) -> None:
    private = path.parent
    path.rename(private / "plan.json")
    rows = [dict.fromkeys(SCHEMA.names)] * 2
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), private / "plan.parquet")
    plan = Plan.load(private)
    assert plan
    for shard in range(min(plan.shards, 3)):
        plan.entries(shard)


def read_provenance(path: Path) -> None:
    """As `inspect`, `annotate --like` and a model card see it."""
    from trainer.inference.export import condition_record

    root = path.parent / "ds"
    (root / ".condprep").mkdir(parents=True)
    path.rename(root / ".condprep" / "provenance.json")
    condition_record(root, ["canny"], [None], 64)
    with contextlib.suppress(CondprepError):
        load_like(root, "cpu", None)
    read_record(root / ".condprep" / "provenance.json", provenance)


def read_findings(path: Path) -> None:
    scores = path.with_name("verify.parquet")
    scores.write_bytes(b"")
    path.rename(scores.with_suffix(".findings.json"))
    kept_result("ds", scores, "", {})


def read_recipe(path: Path) -> None:
    from trainer.recipe.toml import load_recipe

    load_recipe(str(path), [])


def read_checkpoint(path: Path) -> None:
    from trainer.training.checkpoint import Checkpoints

    folder = path.parent / "checkpoints" / "00000003"
    folder.mkdir(parents=True)
    path.rename(folder / "manifest.json")
    recipe = {"train": {"schedule": "constant", "lr": 1.0}, "data": {"path": "p"}}
    Checkpoints(folder.parent, 3).choose("auto", recipe, "d" * 64)


def read_cache(path: Path) -> None:
    from trainer.data.record import damage

    damage(path, whole=True)


TARGETS = {
    "decode": Target(".jpg", pictures, read_picture),
    "tar": Target(".tar", tars, read_source),
    "arrow": Target(".arrow", arrows, read_table),
    "parquet": Target(".parquet", parquets, read_table),
    "jsonl": Target(".jsonl", listings, read_listing),
    "csv": Target(".csv", lambda: [b'file_name,text\na.png,"a, ""b"""\nb.png,c\n'], read_listing),
    "metadata": Target(".parquet", lambda: [metadata_table()], read_listing),
    "captions": Target(".txt", lambda: ["a\n é \n\0b".encode()], read_captions),
    "plan": Target(".json", plans, read_plan),
    "provenance": Target(".json", provenances, read_provenance),
    "counts": Target(".json", counted, Counts.load),
    "findings": Target(".json", findings, read_findings),
    "recipe": Target(".toml", recipes, read_recipe),
    "checkpoint": Target(".json", manifests, read_checkpoint),
    "cache": Target(".json", records, read_cache),
}
