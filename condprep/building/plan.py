"""The plan of a build: every input in order, cut into shards of fixed size, and the configuration they are built with.

It is written before any picture is read. What a shard holds follows from the plan alone, so an interrupted build that
is resumed, with any number of workers, gives the same bytes as one that never stopped.

A shard is a row group, and SHARDS of them are a file: whoever reads a shard reads the footer of its file, which says where its row
groups lie, and a footer of all shards would grow with the build. `seal.json` has the seal of the source, by which it is known again
without a listing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.dataset.arrow import array
from condprep.dataset.records import read_record
from condprep.dataset.remote import shown
from condprep.errors import DatasetError
from condprep.runtime.concurrency import lots
from condprep.runtime.files import commit, commit_json, read_json
from condprep.runtime.own import remove
from condprep.runtime.parquet_pages import read_rows
from condprep.sources.base import Sealed, Source
from condprep.sources.webdataset import WebDatasetSource
from condprep.types import Entry, Notes

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "stamp": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "text": pa.list_(pa.string()),
        "problem": pa.string(),
        "code": pa.string(),
        "condition": pa.string(),
    }
)
SHARDS = 100  # in a file
REPEATED = [
    "text.list.element",
    "problem",
    "code",
]  # columns in which a dictionary saves bytes: names and times are never the same twice
_values = attrgetter(*SCHEMA.names)  # of an entry


@dataclass(frozen=True)
class Plan:
    """What `.condprep/plan.json` and `plan.parquet` hold: one row group a shard."""

    folder: Path
    config: Mapping[str, Any]
    inputs: int
    shard_rows: int
    listing: str  # sha256 over all entries: tells whether the inputs are still the same
    notes: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the source said of what is no input, as in condprep.types.Notes
    sizes: Sequence[int] = ()  # inputs of each shard, of a dataset that was added to; else all but the last are full

    @property
    def id(self) -> str:
        """The same for the same inputs and configuration."""
        return hashlib.sha256((self.listing + json.dumps(self.config, sort_keys=True)).encode()).hexdigest()

    @property
    def shards(self) -> int:
        return len(self.sizes) or -(-self.inputs // self.shard_rows)

    def rows(self, shard: int) -> int:
        """How many inputs a shard has."""
        if self.sizes:
            return self.sizes[shard]
        return min(self.shard_rows, self.inputs - shard * self.shard_rows)

    def entries(self, shard: int) -> list[Entry]:
        """The inputs of one shard, in order."""
        path = _file(self.folder, shard // SHARDS)
        try:
            return [_entry(row) for row in read_rows(path, None, [shard % SHARDS]).to_pylist()]
        except (pa.ArrowException, OSError, TypeError) as error:
            raise DatasetError(f"{path} is damaged ({error}); start afresh with --overwrite") from None

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """The plan in `.condprep`, or None where no build has got that far."""
        path = folder / "plan.json"
        if not path.exists():
            return None
        return read_record(path, lambda stored: cls(folder, *_stored(stored)))


def _stored(stored: Any) -> tuple[dict[str, Any], int, int, str, dict[str, Any], tuple[int, ...]]:
    """What plan.json holds, of the types that it has. Raises ValueError or KeyError."""
    config, inputs, shard_rows, listing = (stored[name] for name in ("config", "inputs", "shard_rows", "listing"))
    if not (isinstance(config, dict) and isinstance(inputs, int) and isinstance(shard_rows, int) and inputs >= 0):
        raise ValueError("no plan of a build")
    if shard_rows < 1 or not isinstance(listing, str):
        raise ValueError(f"shards of {shard_rows} rows")
    sizes = tuple(stored.get("sizes") or ())
    if sizes and (not all(isinstance(one, int) and one > 0 for one in sizes) or sum(sizes) != inputs):
        raise ValueError("shards that do not hold the inputs")
    return config, inputs, shard_rows, listing, dict(stored.get("notes") or {}), sizes


def make_plan(
    folder: Path,
    source: Source,
    config: Mapping[str, Any],
    shard_rows: int,
    seen: Callable[[int], None],
    sizes: Sequence[int] = (),
) -> Plan:
    """List the source once and write the plan; `seen` is told the number of inputs found so far. sizes: as Plan has them."""
    notes = Notes()
    seal, entries = _seal(source), source.entries(notes)
    shards = (list(islice(entries, size)) for size in sizes) if sizes else lots(entries, shard_rows)
    plan = _write(Plan(folder, config, 0, shard_rows, "", notes.found, sizes), shards, seen)
    if seal:
        commit_json(_seal_file(folder), {"listing": plan.listing, "seal": seal})
    return plan


def add_entries(plan: Plan, shards: int, new: Plan | None, first: int, folder: Path, source: Mapping[str, Any]) -> Plan:
    """The plan, which had so many shards, with another's inputs behind its own, from that plan's shard `first` on; in
    `folder`, where one of the two may lie. source: the identity of what has them all. Can be repeated."""
    parts = [(plan, shard) for shard in range(shards)]
    parts += [(new, shard) for shard in range(first, new.shards)] if new else []
    sizes = tuple(one.rows(shard) for one, shard in parts)
    notes = Notes()
    notes.merge((new or plan).notes)
    config = {**plan.config, "requested": plan.config["requested"] | {"source": source}}
    both = Plan(folder, config, 0, plan.shard_rows, "", notes.found, sizes)
    return _write(both, (one.entries(shard) for one, shard in parts), lambda _: None)


def revise(plan: Plan, folder: Path, changed: Mapping[str, Entry], gone: Collection[str]) -> Plan:
    """The plan with other entries for these inputs, and without those, in another folder; shards without inputs are left out."""
    shards = [
        [changed.get(one.name, one) for one in plan.entries(shard) if one.name not in gone]
        for shard in range(plan.shards)
    ]
    kept = list(filter(None, shards))
    return _write(replace(plan, folder=folder, sizes=tuple(map(len, kept))), kept, lambda _: None)


def _write(plan: Plan, shards: Iterable[Sequence[Entry]], seen: Callable[[int], None]) -> Plan:
    """The plan of these inputs, on disk; its notes are taken when they have been listed."""
    digest, inputs = hashlib.sha256(), 0

    def write(shards: Iterable[Sequence[Entry]], path: Path) -> None:
        nonlocal inputs
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=REPEATED) as writer:
            for entries in shards:
                for entry in entries:
                    add_to_digest(digest, entry)
                writer.write_batch(_batch(entries), row_group_size=len(entries))  # else one ends after 2**20 rows
                inputs += len(entries)
                seen(inputs)

    for number, shards_of_file in enumerate(_files(iter(shards))):
        commit(_file(plan.folder, number), partial(write, shards_of_file))
    written = replace(plan, inputs=inputs, listing=digest.hexdigest())
    stored = {name: getattr(written, name) for name in ("config", "inputs", "shard_rows", "listing", "notes")}
    commit_json(plan.folder / "plan.json", stored | ({"sizes": list(plan.sizes)} if plan.sizes else {}))
    for beyond in takewhile(Path.exists, (_file(plan.folder, n) for n in count(-(-written.shards // SHARDS)))):
        remove(beyond)  # of a plan of more shards that was here
    return written


def _files(shards: Iterator[Sequence[Entry]]) -> Iterator[Iterable[Sequence[Entry]]]:
    """The shards of each file, to be taken before those of the next."""
    for first in shards:
        yield chain([first], islice(shards, SHARDS - 1))


def _file(folder: Path, number: int) -> Path:
    return folder / (f"plan-{number:05d}.parquet" if number else "plan.parquet")


def _seal_file(folder: Path) -> Path:
    return folder / "seal.json"


def forget_seal(folder: Path) -> None:
    """The dataset is finished: the seal is of the source's files as they lie here, and no part of it."""
    remove(_seal_file(folder), missing_ok=True)


def _seal(source: Source) -> str | None:
    return source.seal() if isinstance(source, Sealed) else None


def check_inputs(plan: Plan, source: Source) -> None:
    """Raises DatasetError, naming examples, when the source no longer holds what the plan lists."""
    if isinstance(source, WebDatasetSource) and source.is_told:
        return  # check_config has compared it
    with suppress(OSError, ValueError):  # else it is listed
        if read_json(_seal_file(plan.folder)) == {"listing": plan.listing, "seal": _seal(source)}:
            return
    digest = hashlib.sha256()
    for entry in source.entries():
        add_to_digest(digest, entry)
    if digest.hexdigest() != plan.listing:
        raise changed_since(plan, source)


def changed_since(plan: Plan, source: Source) -> DatasetError:
    """Says what is another than when the build began, by examples."""
    what = _difference(plan, source) or "what lists them, or their order"
    return DatasetError(f"the inputs changed since this build began: {what}; {OVERWRITE}")


OVERWRITE = (
    "put them back as they were to go on, add what is new to the finished dataset with --append (and --replace for what "
    "changed or is gone), or start afresh with --overwrite"
)


def check_config(plan: Plan, config: Mapping[str, Any]) -> None:
    """Raises DatasetError that lists each setting of `config` that is another in the build that was begun."""
    try:
        before, now = _flat({name: plan.config.get(name) for name in config}), _flat(config)
    except RecursionError:
        raise DatasetError(
            f"{plan.folder / 'plan.json'} is damaged: nested too deep; start afresh with --overwrite"
        ) from None
    differing = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise DatasetError(
            f"{shown(plan.folder.parent)} was begun with other settings ({'; '.join(differing)}); "
            "use the same ones, versions and devices included, to go on, another --out, or --overwrite to start afresh"
        )


def _difference(plan: Plan, source: Source) -> str:
    """Which inputs were added, removed or changed; holds all names in memory, which only this error path does."""
    before = {entry.name: entry for shard in range(plan.shards) for entry in plan.entries(shard)}
    now = {entry.name: entry for entry in source.entries()}
    kinds = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    return ", ".join(
        f"{len(names)} {kind} ({names[0]!r}{' ...' * (len(names) > 1)})" for kind, names in kinds.items() if names
    )


def add_to_digest(digest: Any, entry: Entry) -> None:
    """All of it: a stamp alone would not tell a tar that was exchanged for one of its size and time."""
    digest.update(json.dumps(_values(entry)).encode())


def _batch(entries: Sequence[Entry]) -> pa.RecordBatch:
    columns = dict(zip(SCHEMA.names, zip(*map(_values, entries))))
    columns["text"] = tuple(None if text is None else list(text) for text in columns["text"])
    return pa.RecordBatch.from_arrays([array(columns[one.name], one.type) for one in SCHEMA], schema=SCHEMA)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**row | {"text": None if row["text"] is None else tuple(row["text"])})


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}"""
    if not isinstance(value, (Mapping, list)) or not value:
        return {prefix: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {key: leaf for name, item in items for key, leaf in _flat(item, f"{prefix}.{name}".lstrip(".")).items()}
