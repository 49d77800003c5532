"""`--append`: what a source has by now and a finished dataset has not becomes further shards of it.

What is new is built in `.condprep/append/`, as a dataset by itself; the other stays as it is, and can be read, until that is
done. Then the files of both take their places behind each other: renamed, never written again. Killed at any moment, the same
command goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condprep import __version__
from condprep.building.begin import as_requested, begin
from condprep.building.finish import finished
from condprep.building.on_devices import OpenBuilder
from condprep.building.options import BuildOptions
from condprep.building.output_folder import check_here
from condprep.building.plan import Plan, add_entries, check_config, check_inputs
from condprep.building.result import BuildResult, build_result
from condprep.building.shard import ShardBuilder
from condprep.dataset.card import write_card
from condprep.dataset.columns import datasets_features
from condprep.dataset.layout import SPLITS, Layout, place_files
from condprep.dataset.records import provenance, read_record
from condprep.dataset.shards import Counts
from condprep.engines.choose import engine_for
from condprep.errors import DatasetError, UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.files import commit_json, commit_text, read_json
from condprep.runtime.own import make_folder, move, remove, remove_tree
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.sources.chosen import ListedInputs, NewInputs
from condprep.types import Notes
from condprep.weights.find import Weights

CHANGED = "changed since it became a row, and left as it was"
GONE = "no longer in the source; its row stays"


@dataclass(frozen=True)
class Addition:
    """What is added to the dataset at `layout`."""

    layout: Layout
    source: Source  # of the inputs that are new
    any: bool  # whether there is something new
    notes: Notes  # what is not as it was any more

    @property
    def staging(self) -> Layout:
        return Layout(self.layout.private / "append")

    @property
    def note(self) -> Path:
        """Where the joining is written down before it begins."""
        return self.layout.appending

    def join(self, builder: ShardBuilder) -> None:
        """Put the shards of the builder behind those that are there. Every step can be repeated."""
        layout, new = self.layout, builder.plan
        if not self.note.exists():
            before = _plan(layout)
            check_config(before, {"annotators": new.config["annotators"]})
            said = {"counts": vars(Counts.load(layout.done)), "inputs": before.inputs, "shards": before.shards}
            commit_json(self.note, said)
        said = read_json(self.note)
        if layout.done.exists() and _plan(layout).inputs > said["inputs"]:  # only what is left over is to be removed
            return
        there = Counts.of(said["counts"])
        remove(layout.done, missing_ok=True)
        _gather(layout, there)
        for number in range(new.shards):
            if (built := self.staging.shard(number)).exists():
                move(built, layout.shard(1 + number))
        plan = add_entries(_plan(layout), said["shards"], new)
        counts = [Counts.load(layout.shard(n) / "counts.json") for n in range(1 + new.shards)]
        form = builder.options.format
        total = place_files(layout, counts, datasets_features(builder.columns), form, plan.id)
        self._describe(total, builder, said)
        commit_json(layout.done, vars(total))

    def _describe(self, total: Counts, builder: ShardBuilder, said: dict[str, Any]) -> None:
        """Card and provenance, which say what was added how; what each shard holds, where that was known."""
        layout, new = self.layout, builder.plan
        shards = layout.private / "shards.json"
        if shards.exists():
            further = [vars(Counts.load(layout.shard(1 + n) / "counts.json")) for n in range(new.shards)]
            commit_json(shards, [*read_json(shards)[: said["shards"]], *further])
        if not total.rows:
            return
        before = read_record(layout.private / "provenance.json", provenance)
        earlier = [one for one in before.get("appended", []) if one["behind"] < said["inputs"]]
        added = {
            "behind": said["inputs"],
            "inputs": new.inputs,
            "condprep": __version__,
            "machine": new.config["machine"],
        }
        counts = {"inputs": said["inputs"] + new.inputs} | total.figures()
        write_card(layout, before | {"counts": counts, "appended": [*earlier, added]})

    def result(self, built: Counts, seconds: float) -> BuildResult:
        """Of the whole dataset; what is left of the joining is removed."""
        counts = finished(self.layout)
        remove(self.note, missing_ok=True)
        remove_tree(self.staging.root, ignore_errors=True)
        found = build_result(self.layout, None, counts, built, seconds)
        notes = Notes()
        notes.merge(found.notes)
        notes.merge(self.notes.found)
        return replace(found, notes=notes.found)


def check_append(asked: bool, others: bool, out: str) -> None:
    """Raises UsageError where --append, if it is asked for, has no meaning. others: whether options are given that contradict it."""
    if asked and others:
        raise UsageError("--append adds to a dataset as it is: leave out --overwrite, --retry-rejects and --limit")
    if asked:
        check_here(out, "--append")


def append_inputs(
    layout: Layout,
    source: Source,
    options: BuildOptions,
    weights: Weights,
    devices: Sequence[str],
    workers: int | None,
    progress: Callable[[Progress], None],
) -> BuildResult:
    """Add what `source` has that the finished dataset at `layout`, whose lock is held, has not. devices: one, or a process for each."""
    began, built = time.monotonic(), Counts()
    addition = begin_append(layout, source, options)
    if addition.any:
        staging, inputs = addition.staging, addition.source
        builder = begin(staging, inputs, options, device=devices[0], weights=weights, progress=progress)
        if builder:
            if not addition.note.exists():  # else all is built, and on its way to its place
                job = OpenBuilder(staging, inputs, options, weights, builder.columns)
                several = list(devices) if len(devices) > 1 else []
                build_shards = engine_for(builder, job, several, workers or usable_cores(), None)
                built = build_shards(builder.pending)
            addition.join(builder)
    return addition.result(built, time.monotonic() - began)


def begin_append(layout: Layout, source: Source, options: BuildOptions) -> Addition:
    """What `source` has that the finished dataset at `layout`, whose lock is held, has not.

    Raises DatasetError where there is no finished dataset, or one of other settings.
    """
    note = layout.appending
    plan = Plan.load(layout.private)
    if plan is None or not (layout.done.exists() or note.exists()):
        raise DatasetError(
            f"{layout.root} is no finished dataset; build it without --append first, or let its build end"
        )
    check_config(plan, {"requested": as_requested(source, options)})
    # of a joining that was stopped, what was there before it
    shards = read_json(note)["shards"] if note.exists() else plan.shards
    known = {entry.name: entry for shard in range(shards) for entry in plan.entries(shard)}
    notes, new, seen = Notes(), 0, set[str]()
    for entry in source.entries():
        seen.add(entry.name)
        if entry.name not in known:
            new += 1
        elif entry != known[entry.name]:
            notes(CHANGED, entry.name)
    for name in known:
        if name not in seen:
            notes(GONE, name)
    staging = Layout(layout.private / "append")
    inputs: Source = NewInputs(source, frozenset(known))
    if note.exists():  # what is on its way to its place goes there, whatever the source has by now
        built = _plan(staging)
        inputs = ListedInputs(source, [entry for shard in range(built.shards) for entry in built.entries(shard)])
    elif new:
        _take_up(staging, inputs, plan)
    return Addition(layout, inputs, bool(new) or note.exists(), notes)


def _take_up(staging: Layout, inputs: Source, plan: Plan) -> None:
    """Have in `staging` what was begun of these inputs; of others, or by another version, it is begun anew."""
    begun = Plan.load(staging.private)
    if begun:
        try:
            check_config(begun, {"condprep": __version__, "requested": plan.config["requested"]})
            check_inputs(begun, inputs)
        except DatasetError:
            remove_tree(staging.root)
    make_folder(staging.private)


def _plan(layout: Layout) -> Plan:
    plan = Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    return plan


def _gather(layout: Layout, there: Counts) -> None:
    """The dataset as it is becomes one shard, the first."""
    folder = layout.shard(0)
    make_folder(folder)
    files = []
    for path, name, stored in _places(layout, there):
        if path.exists():
            move(path, folder / name)
        files.append(stored | {"name": name})
    rejects = layout.private / "rejects.jsonl"
    if not (folder / "rejects.jsonl").exists():
        commit_text(folder / "rejects.jsonl", rejects.read_text(encoding="utf-8") if rejects.exists() else "")
    commit_text(folder / "counts.json", json.dumps(vars(there) | {"files": files}, sort_keys=True))


def _places(layout: Layout, there: Counts) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Each data file: where it lies, its name in a shard, and what is known of it."""
    for split in SPLITS:
        for number, stored in enumerate(one for one in there.files if one["split"] == split):
            path = layout.root / stored["name"]
            yield path, f"{split}-{number:05d}{path.suffix}", stored
