"""`--retry-rejects`: inputs that were rejected are tried again on purpose, once what was wrong with them is mended.

The shards that hold such rejects are taken back, and the build goes on with them as if they had never been built. What
is taken back is written down first: stopped at any moment, the next build of the dataset goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from condprep.building.keeping import segments_of
from condprep.building.plan import Plan, add_to_digest, changed_since, make_plan
from condprep.dataset.columns import check_named
from condprep.dataset.layout import SPLITS, Layout
from condprep.dataset.reader import batches
from condprep.dataset.records import read_record
from condprep.dataset.shards import Counts
from condprep.dataset.splits import By, split_by
from condprep.errors import REJECTS, DatasetError, UsageError
from condprep.runtime.files import commit_json, commit_text, read_json
from condprep.runtime.own import make_folder, move, remove, remove_tree
from condprep.sources.base import Source

ALL = "all"


def ask_again(layout: Layout, plan: Plan, source: Source, codes: Collection[str]) -> Plan:
    """Write down which shards are taken back; the plan, with the inputs as they are now where they are tried again.

    codes: of rejects, or "all". Raises UsageError for a code that no reject can have, DatasetError where other inputs changed.
    """
    note = _note(layout)
    if note.exists() and read_json(note)["codes"] == sorted(codes):  # of a run that was stopped
        return _as_now(plan, source, set(read_json(note)["sources"]))
    if plan.config["requested"]["source"].get("kind") == "condprep":
        raise DatasetError(f"columns were added to {layout.root} since it was built; build it anew with all annotators")
    found = [(shard, one) for shard, one in _rejects(layout, plan) if ALL in codes or one["code"] in codes]
    there = {one["code"] for _, one in _rejects(layout, plan)}
    if unknown := [code for code in codes if code not in {ALL, *REJECTS, *there}]:
        listed = ", ".join(sorted(there)) or "none at all"
        raise UsageError(f"--retry-rejects {unknown[0]}: no reject has this code; there are {listed}")
    sources = {one["source"] for _, one in found}
    if layout.done.exists():
        _check_places(layout)
        _check_splits(layout, plan, {shard for shard, _ in found})
    for shard in layout.begun():  # not finished: what is kept of it is made again
        segments = segments_of(layout, plan, shard, plan.id)
        if any(ALL in codes or code in codes for code in segments.look().codes):
            segments.remove()
    now = _as_now(plan, source, sources)
    if now is not plan and not layout.done.exists():
        layout.send_plan()
    if found:
        shards = sorted({shard for shard, _ in found})
        said = {"codes": sorted(codes), "shards": shards, "sources": sorted(sources), "taken": False}
        commit_json(note, said | {"finished": layout.done.exists()})
    return now


def is_retrying(layout: Layout) -> bool:
    """Whether shards are still to be taken back."""
    return _note(layout).exists() and not read_json(_note(layout))["taken"]


def take_back(layout: Layout) -> None:
    """Do what was written down, if it is not done yet: afterwards those shards are missing. Can be repeated."""
    note = _note(layout)
    if not note.exists() or (said := read_json(note))["taken"]:
        return
    if said["finished"]:
        layout.reopen(note)
        _reopen(layout, set(said["shards"]))
        layout.gather()
    else:
        layout.uncommit(said["shards"])
    commit_json(note, said | {"taken": True})


def forget(layout: Layout) -> None:
    """The shards are there again."""
    remove(_note(layout), missing_ok=True)


def _note(layout: Layout) -> Path:
    return layout.private / "retry.json"


def _reopen(layout: Layout, without: Collection[int]) -> None:
    """A finished dataset becomes the shards that it was made of, without some."""
    if layout.done.exists():
        remove_tree(layout.shards, ignore_errors=True)  # left over: their files are in their places
        remove(layout.done)
    counts = load_shards(layout)
    lines = iter((layout.private / "rejects.jsonl").read_bytes().splitlines(keepends=True))
    for number, shard in enumerate(counts):
        rejects = b"".join(islice(lines, shard.rejects.total()))
        if number not in without:
            folder = layout.shard(number)
            make_folder(folder)
            commit_text(folder / "rejects.jsonl", rejects.decode())
            commit_text(folder / "counts.json", json.dumps(vars(shard), sort_keys=True))
    for final, number, name in built_places(layout, counts):
        if number in without:
            remove(final, missing_ok=True)
        elif final.exists():
            move(final, layout.shard(number) / name)


def built_places(layout: Layout, counts: Sequence[Counts]) -> Iterator[tuple[Path, int, str]]:
    """Each data file of a finished dataset: where it lies, its shard, and its name there."""
    for split in SPLITS:
        files = [(n, one["name"]) for n, shard in enumerate(counts) for one in shard.files if one["split"] == split]
        for place, (number, name) in enumerate(files):
            yield layout.data(split, place, len(files), Path(name).suffix), number, name


def _check_places(layout: Layout) -> None:
    """Raises DatasetError where the files of a finished dataset are not those that its build has put there."""
    built = {final.relative_to(layout.root).as_posix() for final, _, _ in built_places(layout, load_shards(layout))}
    if {file["name"] for file in Counts.load(layout.done).files} != built:
        raise DatasetError(f"{layout.root} was changed since it was built (split, curated, ...); build it anew")


def _check_splits(layout: Layout, plan: Plan, shards: Collection[int]) -> None:
    """Raises DatasetError where a row of these shards would come into another split, as one that replaced another might."""
    options = plan.config["requested"]["options"]
    by: By = "group" if options.get("validation_by") else "key"
    for path, number, name in built_places(layout, load_shards(layout)):
        if number not in shards or path.suffix == ".tar":
            continue
        split = name.partition("-")[0]
        for batch in batches(path, ["key", "source"]):
            for row in batch.to_pylist():
                check_named(str(path), **row)
                if split_by(by, row["key"], row["source"], options["validation"]) != split:
                    raise DatasetError(
                        f"{row['source']!r} was replaced and kept its split, which it would lose if what was built with it is built again; "
                        "give the rejected files another time (touch), and --append --replace tries them again"
                    )


def load_shards(layout: Layout) -> list[Counts]:
    """What each shard of a finished dataset held. Raises DatasetError where that was not written down."""
    path = layout.private / "shards.json"
    if not path.exists():
        raise DatasetError(f"{path} is gone, and with it what each shard held; start afresh with --overwrite")
    return read_record(path, lambda stored: [Counts.of(one) for one in stored])


def _rejects(layout: Layout, plan: Plan) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rejects so far, with the shard of each."""
    if layout.done.exists():
        lines = iter((layout.private / "rejects.jsonl").read_bytes().splitlines())
        for number, shard in enumerate(load_shards(layout)):
            yield from ((number, json.loads(line)) for line in islice(lines, shard.rejects.total()))
        return
    for number in range(plan.shards):
        path = layout.shard(number) / "rejects.jsonl"
        if path.exists():
            yield from ((number, json.loads(line)) for line in path.read_bytes().splitlines())


def _as_now(plan: Plan, source: Source, tried: Collection[str]) -> Plan:
    """The plan with the inputs of these names as they are now. Raises DatasetError where any other input changed."""
    digest, changed = hashlib.sha256(), False
    before = (entry for shard in range(plan.shards) for entry in plan.entries(shard))
    for old, new in zip_longest(before, source.entries()):
        if old is None or new is None or (old != new and old.name not in tried):
            raise changed_since(plan, source)
        changed = changed or old != new
        add_to_digest(digest, new)
    if not changed and digest.hexdigest() == plan.listing:
        return plan
    return make_plan(plan.folder, source, plan.config, plan.shard_rows, lambda _: None, plan.sizes)
