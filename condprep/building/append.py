"""`--append`: what a source has by now and a finished dataset has not becomes further shards of it.

What is new is built in `.condprep/append/`, as a dataset by itself; the other stays as it is, and can be read, until that is
done. Then the files of both take their places behind each other: renamed, never written again, but for those that `--replace`
writes anew (`renew.py`). Killed at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condprep import __version__
from condprep.building.begin import as_requested, begin
from condprep.building.finish import finished
from condprep.building.growing import another_row, check_names, check_requested
from condprep.building.on_devices import OpenBuilder
from condprep.building.options import BuildOptions
from condprep.building.plan import Plan, add_entries, check_config, check_inputs
from condprep.building.renew import Renewal, plan_of
from condprep.building.result import CHANGED, GONE, BuildResult, build_result
from condprep.dataset.card import write_card
from condprep.dataset.columns import datasets_features
from condprep.dataset.layout import SPLITS, Layout, place_files, remove_empty_splits
from condprep.dataset.reader import schema
from condprep.dataset.records import provenance, read_record, read_rejects
from condprep.dataset.shards import Counts, Form
from condprep.engines.choose import engine_for
from condprep.errors import DatasetError, UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.files import commit_json, commit_text, read_json
from condprep.runtime.own import make_folder, move, remove, remove_tree
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.sources.chosen import InOrder, NewInputs
from condprep.types import Notes
from condprep.weights.find import Weights

REPLACED = "changed since it became a row, and replaced"
REMOVED = "no longer in the source, and taken away"
RETRIED = "rejected before, changed since, and tried again"


@dataclass(frozen=True)
class Addition:
    """What is added to the dataset at `layout`."""

    layout: Layout
    staging: Layout  # where it is built
    source: Source  # of the inputs that are built: those that replace others, then those that are new
    sizes: Sequence[int]  # of the shards that they are built in
    renewal: Renewal | None  # what becomes of rows that are there, where not all of them stay
    notes: Notes  # what is not as it was any more

    @property
    def note(self) -> Path:
        """Where the joining is written down before it begins."""
        return self.layout.appending

    @property
    def any(self) -> bool:
        return bool(self.sizes or self.renewal or self.note.exists())

    @property
    def built(self) -> Plan | None:
        """Of what is built; None where nothing is to be."""
        return Plan.load(self.staging.private)

    def first(self, shard_rows: int) -> int:
        """From which shard on what is built is new."""
        return -(-len(self.renewal.replaced) // shard_rows) if self.renewal else 0

    def join(self, form: Form) -> None:
        """Put the shards that were built behind those that are there. Every step can be repeated."""
        layout, new, renewal = self.layout, self.built, self.renewal
        first = self.first(plan_of(layout).shard_rows)
        if not self.note.exists():
            if renewal:
                renewal.prepare(new, first)
            remove_tree(layout.shards, ignore_errors=True)  # left over: their files are in their places
            commit_json(self.note, self._before(new, first, form))
        said = read_json(self.note)
        if layout.done.exists() and plan_of(layout).id != said["plan"]:  # only what is left over is to be removed
            return
        remove(layout.done, missing_ok=True)
        _gather(layout, Counts.of(said["counts"]), renewal)
        for number in range(first, new.shards if new else 0):
            if (built := self.staging.shard(number)).exists():
                move(built, layout.shard(1 + number - first))
        before = renewal.plan if renewal else plan_of(layout)
        plan = add_entries(before, said["shards"], new, first, layout.private, said["source"])
        counts = [Counts.load(layout.shard(n) / "counts.json") for n in range(1 + plan.shards - said["shards"])]
        total = place_files(layout, counts, said["features"], form, plan.id)
        remove_empty_splits(layout, total.rows)
        self._describe(total, counts[1:], said)
        commit_json(layout.done, vars(total))

    def _before(self, new: Plan | None, first: int, form: Form) -> dict[str, Any]:
        """The dataset to which something is added, and what that is."""
        layout, renewal = self.layout, self.renewal
        before, plan = (renewal.counts, renewal.plan) if renewal else (Counts.load(layout.done), plan_of(layout))
        found = plan_of(layout)
        if new:
            check_config(found, {"annotators": new.config["annotators"]})
        shards = range(first, new.shards if new else 0)
        added = [Counts.load(self.staging.shard(n) / "counts.json").rows.total() for n in shards]
        record = layout.private / "provenance.json"
        said: dict[str, Any] = {"counts": vars(before), "inputs": plan.inputs, "shards": plan.shards, "plan": found.id}
        said["features"] = _features(layout, Counts.load(layout.done), form)
        said["changes"] = {"added": sum(added)} | (renewal.changes if renewal else {})
        said["source"] = dict(self.source.identity)
        said["new"] = {"inputs": sum(new.rows(n) for n in shards), "machine": new.config["machine"]} if new else None
        return said | {"appended": read_record(record, provenance).get("appended", []) if record.exists() else []}

    def _describe(self, total: Counts, further: Sequence[Counts], said: dict[str, Any]) -> None:
        """Card and provenance, which say what was added how; what each shard holds, where that was known."""
        layout, renewal = self.layout, self.renewal
        shards = layout.private / "shards.json"
        if shards.exists():
            before = renewal.shards if renewal else shards
            commit_json(shards, [*read_json(before)[: said["shards"]], *map(vars, further)])
        if not total.rows:
            return
        new = said["new"] or {"inputs": 0}
        added = {"behind": said["inputs"], "condprep": __version__} | new | (said["changes"] if renewal else {})
        found = read_record(layout.private / "provenance.json", provenance)
        counts = {"inputs": said["inputs"] + new["inputs"]} | total.figures()
        now = {"source": said["source"], "counts": counts, "appended": [*said["appended"], added]}
        write_card(layout, found | now)

    def result(self, built: Counts, seconds: float) -> BuildResult:
        """Of the whole dataset; what is left of the joining is removed."""
        counts = finished(self.layout)
        changes = read_json(self.note)["changes"] if self.note.exists() else {"added": 0}
        remove(self.note, missing_ok=True)
        remove_tree(self.staging.root, ignore_errors=True)
        self.staging.remove_shards()
        found = build_result(self.layout, None, counts, built, seconds)
        notes = Notes()
        notes.merge(found.notes)
        notes.merge(self.notes.found)
        return replace(found, notes=notes.found, changes=changes)


def check_append(append: bool, others: bool, *, replace: bool, form: str) -> None:
    """Raises UsageError where --append, or --replace with it, has no meaning. others: whether options are given that contradict it."""
    if replace and not append:
        raise UsageError("--replace is about the rows of a dataset that is added to; give --append as well")
    if append and others:
        raise UsageError("--append adds to a dataset as it is: leave out --overwrite, --retry-rejects and --limit")
    if replace and form == "webdataset":
        raise UsageError(
            "--replace writes files of rows anew, and cannot do that with tars: leave it out, or build with --format parquet"
        )


def append_inputs(
    layout: Layout,
    source: Source,
    options: BuildOptions,
    weights: Weights,
    devices: Sequence[str],
    workers: int | None,
    progress: Callable[[Progress], None],
    *,
    anew: bool = False,
) -> BuildResult:
    """Add what `source` has that the finished dataset at `layout`, whose lock is held, has not. devices: one, or a process for each.

    anew: rows whose input changed are replaced, and those whose input is gone are taken away.
    """
    began, built = time.monotonic(), Counts()
    addition = begin_append(layout, source, options, anew)
    if addition.sizes and not addition.note.exists():  # else all is built, and on its way to its place
        staging, inputs = addition.staging, addition.source
        how: dict[str, Any] = {"device": devices[0], "weights": weights, "progress": progress}
        builder = begin(staging, inputs, options, sizes=addition.sizes, **how)
        if builder:
            staging.begin()
            job = OpenBuilder(staging, inputs, options, weights, builder.columns)
            several = list(devices) if len(devices) > 1 else []
            build_shards = engine_for(builder, job, several, workers or usable_cores(), None)
            built = build_shards(builder.pending)
    if not addition.any:
        return addition.result(built, time.monotonic() - began)
    progress(Progress("finish", built.inputs, built.inputs))
    with layout.exchanged():
        addition.join(options.format)
        return addition.result(built, time.monotonic() - began)


def begin_append(layout: Layout, source: Source, options: BuildOptions, anew: bool = False) -> Addition:
    """What `source` has that the finished dataset at `layout`, whose lock is held, has not.

    Raises DatasetError where there is no finished dataset, or one of other settings.
    """
    note, staging = layout.appending, layout.staging("append")
    plan = Plan.load(layout.private)
    if plan is None or not (layout.done.exists() or note.exists()):
        raise DatasetError(
            f"{layout.root} is no finished dataset; build it without --append first, or let its build end"
        )
    check_requested(plan, requested := as_requested(source, options))
    if note.exists():  # what is on its way to its place goes there, whatever the source has by now
        renewal = Renewal.begun(layout, staging)
        told = _told(renewal) if renewal else _compare(plan, read_json(note)["shards"], source).notes()
        return Addition(layout, staging, source, (), renewal, told)
    found = _compare(plan, plan.shards, source)
    if not anew:
        check_names(source, found.known, found.others)
    renewal = _renewal(layout, staging, found) if anew else None
    replaced = renewal.replaced if renewal else ()
    kept = found.known - frozenset(found.changed if renewal else ())
    inputs: Source = InOrder(NewInputs(source, kept), replaced) if renewal else NewInputs(source, kept)
    new = found.new + (len(found.changed) - len(replaced) if renewal else 0)
    sizes = (*_lots(len(replaced), plan.shard_rows), *_lots(new, plan.shard_rows))
    if sizes:
        _take_up(staging, inputs, requested)
    elif Plan.load(staging.private):  # of inputs that are gone by now
        staging.discard()
    return Addition(layout, staging, inputs, sizes, renewal, _told(renewal) if renewal else found.notes())


@dataclass(frozen=True)
class _Compared:
    """A source beside the dataset that was built of it."""

    known: frozenset[str]  # names that the dataset has
    new: int
    changed: Sequence[str]
    gone: Sequence[str]
    others: Sequence[str]  # of those that changed, which may be other rows under these names

    def notes(self) -> Notes:
        """What is left as it is."""
        notes = Notes()
        for kind, names in ((CHANGED, self.changed), (GONE, self.gone)):
            for name in names:
                notes(kind, name)
        return notes


def _compare(plan: Plan, shards: int, source: Source) -> _Compared:
    """shards: how many the plan had before a joining that was stopped."""
    known = {entry.name: entry for shard in range(shards) for entry in plan.entries(shard)}
    new, changed, seen, others, another = 0, set[str](), set[str](), list[str](), another_row(source)
    for entry in source.entries():
        seen.add(entry.name)
        if entry.name not in known:
            new += 1
        elif entry != known[entry.name]:
            changed.add(entry.name)
            others += [entry.name] * another(known[entry.name], entry)
    gone = [name for name in known if name not in seen]
    return _Compared(frozenset(known), new, [name for name in known if name in changed], gone, others)


def _renewal(layout: Layout, staging: Layout, found: _Compared) -> Renewal | None:
    """What becomes of what changed and what is gone; None where there is neither. Raises DatasetError where all is gone."""
    if len(found.gone) == len(found.known):
        raise DatasetError(
            f"the source has none of the {len(found.known):,} inputs of {layout.root} any more; give the one that it was built "
            "from, or build it anew with --overwrite"
        )
    if not found.changed and not found.gone:
        return None
    rejected = {json.loads(line)["source"] for line in read_rejects(layout.private).splitlines()}
    replaced = [name for name in found.changed if name not in rejected]
    again = [name for name in found.changed if name in rejected]
    return Renewal(layout, staging, replaced, [*found.gone, *again], again)


def _told(renewal: Renewal) -> Notes:
    """What is not left as it was."""
    notes, again = Notes(), frozenset(renewal.again)
    for name in renewal.replaced:
        notes(REPLACED, name)
    for name in renewal.removed:
        notes(RETRIED if name in again else REMOVED, name)
    return notes


def _lots(inputs: int, most: int) -> list[int]:
    """Sizes of the shards of so many inputs."""
    return [min(most, inputs - start) for start in range(0, inputs, most)]


def _take_up(staging: Layout, inputs: Source, requested: Mapping[str, Any]) -> None:
    """Have in `staging` what was begun of these inputs; of others, or by another version, it is begun anew."""
    begun = Plan.load(staging.private)
    if begun:
        try:
            check_config(begun, {"condprep": __version__, "requested": requested})
            check_inputs(begun, inputs)
        except DatasetError:
            staging.discard()
    make_folder(staging.private)


def _features(layout: Layout, before: Counts, form: Form) -> dict[str, Any]:
    """The columns, as the first of the files has them; tars say nothing of theirs."""
    if form == "webdataset" or not before.files:
        return {}
    return datasets_features({one.name: one.type for one in schema(layout.root / before.files[0]["name"])})


def _gather(layout: Layout, before: Counts, renewal: Renewal | None) -> None:
    """The dataset as it is, or will be, becomes one shard, the first. Once that is done, files have other names."""
    folder = layout.shard(0)
    if (folder / "counts.json").exists():
        return
    make_folder(folder)
    if renewal:
        renewal.take_places()
    files = []
    for path, name, stored in _places(layout, before):
        if path.exists():
            move(path, folder / name)
        files.append(stored | {"name": name})
    rejects = renewal.rejects if renewal else layout.private / "rejects.jsonl"
    commit_text(folder / "rejects.jsonl", rejects.read_text(encoding="utf-8") if rejects.exists() else "")
    commit_text(folder / "counts.json", json.dumps(vars(before) | {"files": files}, sort_keys=True))


def _places(layout: Layout, before: Counts) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Each data file: where it lies, its name in a shard, and what is known of it."""
    for split in SPLITS:
        for number, stored in enumerate(one for one in before.files if one["split"] == split):
            path = layout.root / stored["name"]
            yield path, f"{split}-{number:05d}{path.suffix}", stored
