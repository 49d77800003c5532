"""`--append --replace`: rows whose input is another by now are made anew in their places, those whose input is gone are taken away.

What changed is built beside the dataset, with what is new (`append.py`). Then each data file that holds such rows is written anew
beside it, and so are the rejects, the counts and the plan of the dataset as it will be; other files keep their bytes. The dataset
stays as it is until all of that is there, and stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from condprep.building.plan import Plan, revise
from condprep.building.retry_rejects import built_places, load_shards
from condprep.dataset.arrow import row_of
from condprep.dataset.layout import Layout
from condprep.dataset.pairs.table import FEW
from condprep.dataset.reader import batches, schema, take
from condprep.dataset.records import read_record, read_rejects
from condprep.dataset.shards import Counts, DataFile, stored_row
from condprep.errors import DatasetError
from condprep.runtime.files import commit_json, commit_text, read_json
from condprep.runtime.own import Held, make_folder, move, remove, remove_tree
from condprep.types import Entry, Notes


@dataclass
class Renewed:
    """A data file as it will be: what is taken out of it, what comes into its place, and what it is then."""

    stored: dict[str, Any]  # as in Counts.files
    minus: Counts = field(default_factory=Counts)
    plus: Counts = field(default_factory=Counts)

    @classmethod
    def load(cls, path: Path) -> Renewed:
        return read_record(path, lambda one: cls(one["stored"], Counts.of(one["minus"]), Counts.of(one["plus"])))

    def store(self, path: Path) -> None:
        commit_json(path, {"stored": self.stored, "minus": vars(self.minus), "plus": vars(self.plus)})


@dataclass(frozen=True)
class Renewal:
    """What becomes of the inputs that the finished dataset at `layout` has."""

    layout: Layout
    staging: Layout  # where what changed is built, in the first shards
    replaced: Sequence[str]  # inputs that became rows, and are others by now; in the dataset's order
    removed: Sequence[str]  # inputs that are gone, and those that are tried again
    again: Sequence[str]  # inputs that were rejects, and changed: they are built as if they were new

    @classmethod
    def begun(cls, layout: Layout, staging: Layout) -> Renewal | None:
        """That of a run which was stopped once all was written."""
        said = staging.private / "anew" / "asked.json"
        if not said.exists():
            return None
        return read_record(said, lambda one: cls(layout, staging, one["replaced"], one["removed"], one["again"]))

    @property
    def folder(self) -> Path:
        return self.staging.private / "anew"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    @property
    def shards(self) -> Path:
        """What each shard holds, where the dataset knows that of its own."""
        return self.folder / "shards.json"

    @cached_property
    def plan(self) -> Plan:
        plan = Plan.load(self.folder)
        if plan is None:
            raise DatasetError(f"{self.folder / 'plan.json'} is gone; start afresh with --overwrite")
        return plan

    @cached_property
    def counts(self) -> Counts:
        return Counts.load(self.folder / "counts.json")

    @property
    def changes(self) -> dict[str, int]:
        """Rows that came into the place of others, and rows that are taken away."""
        minus, plus = (sum(one.rows.total() for one in some) for some in zip(*self._deltas()))
        return {"replaced": plus, "removed": minus - plus}

    def prepare(self, built: Plan | None, first: int) -> None:
        """Write all of it. built: of what is built beside the dataset; its shards before `first` hold what changed."""
        before = plan_of(self.layout)
        asked = {name: list(getattr(self, name)) for name in ("replaced", "removed", "again")}
        asked["of"] = [before.id, built.id if built else ""]
        said = self.folder / "asked.json"
        if not said.exists() or read_json(said) != asked:
            remove_tree(self.folder, ignore_errors=True)
            make_folder(self.folder)
            commit_json(said, asked)
        if (self.folder / "counts.json").exists():
            return
        staged = [self.staging.shard(shard) for shard in range(first)]
        places = _places(staged)
        for number, stored in enumerate(self._files):
            if not self._record(number).exists() and (rows := self._sources(stored)):
                self._write(number, stored, rows, places)
        remove(self.folder / f"partial{self._suffix}", missing_ok=True)
        now = {entry.name: entry for shard in range(first) for entry in built.entries(shard)} if built else {}
        self._describe(before, now, staged)

    def take_places(self) -> None:
        """The files that were written anew replace those of the dataset. Can be repeated, until files get other names."""
        for number, stored in enumerate(self._files):
            record, anew = self._record(number), self._data(number)
            if record.exists() and not Renewed.load(record).stored["rows"]:
                remove(self.layout.root / stored["name"], missing_ok=True)
            elif anew.exists():
                move(anew, self.layout.root / stored["name"])

    @cached_property
    def _files(self) -> list[dict[str, Any]]:
        """Those of the dataset as it was."""
        before = self.folder / "before.json"
        if not before.exists():
            commit_json(before, vars(Counts.load(self.layout.done)))
        return Counts.load(before).files

    @property
    def _suffix(self) -> str:
        return Path(self._files[0]["name"]).suffix

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"

    def _data(self, number: int) -> Path:
        return self.folder / f"{number:05d}{self._suffix}"

    def _sources(self, stored: Mapping[str, Any]) -> list[str]:
        """Those of a file's rows that do not stay as they are; replaced ones in the file's order."""
        path = self.layout.root / stored["name"]
        return [
            source
            for batch in batches(path, ["source"])
            for source in batch.column(0).to_pylist()
            if source in self._taken
        ]

    @cached_property
    def _taken(self) -> frozenset[str]:
        return frozenset(self.replaced) | frozenset(self.removed)

    def _write(
        self, number: int, stored: Mapping[str, Any], taken: Sequence[str], places: Mapping[str, tuple[Path, int]]
    ) -> None:
        """A file without its rows of these sources, but for those that have another row, which is at `places`."""
        path = self.layout.root / stored["name"]
        kinds, split = schema(path), stored["split"]
        rows = _in_order([places[source] for source in taken if source in places], kinds.names)
        partial, renewed = self.folder / f"partial{self._suffix}", Renewed({})
        remove(partial, missing_ok=True)
        with closing(Held(self.folder)) as held:
            file = DataFile(held, partial.name, kinds)
            for batch in batches(path, kinds.names, FEW):
                for at in range(len(batch)):
                    row = stored_row(row_of(batch, at), split)
                    source = row.columns["source"]
                    if source in self._taken:
                        renewed.minus.add(row)
                        if source not in places:
                            continue
                        row = stored_row(next(rows), split)
                        renewed.plus.add(row)
                    file.add(row)
            file.close()
        if file.rows:
            move(partial, self._data(number))
        renewed.stored = {**stored, "rows": file.rows, "bytes": file.bytes}
        renewed.store(self._record(number))

    def _deltas(self) -> Iterator[tuple[Counts, Counts]]:
        """What is taken out of each file that is written anew, and what comes into it."""
        yield Counts(), Counts()
        for number in range(len(self._files)):
            if self._record(number).exists():
                renewed = Renewed.load(self._record(number))
                yield renewed.minus, renewed.plus

    def _describe(self, before: Plan, now: Mapping[str, Entry], staged: Sequence[Path]) -> None:
        """Rejects, shards, plan and counts of the dataset as it will be, the counts last. staged: the shards of what changed."""
        rejected = [line for shard in staged for line in _lines((shard / "rejects.jsonl").read_bytes())]
        noted = [Counts.load(shard / "counts.json").notes for shard in staged]
        known = (self.layout.private / "shards.json").exists()
        shards = load_shards(self.layout) if known else [Counts.load(self.layout.done)]
        places = built_places(self.layout, shards) if known else ((..., 0, one["name"]) for one in self._files)
        at = {(shard, name): place for place, (_, shard, name) in enumerate(places)}
        names = [{one.name for one in before.entries(shard)} for shard in range(before.shards)]
        lines, kept = iter(_lines(read_rejects(self.layout.private))), list[bytes]()
        total = Counts(files=[one for number in range(len(self._files)) if (one := self._now(number))["rows"]])
        for number, shard in enumerate(shards):
            old = list(islice(lines, shard.rejects.total()))
            new = [line for line in rejected if not known or _of(line)["source"] in names[number]]
            stay = [line for line in old if _of(line)["source"] not in self._taken] + new
            shard.rejects = Counter(_of(line)["code"] for line in stay)
            self._renew(shard, [at[number, one["name"]] for one in shard.files])
            total.merge(shard)
            kept += stay
        for notes in noted:
            Notes(total.notes).merge(notes)
        self._check(total)
        commit_text(self.rejects, b"".join(kept).decode())
        if known:
            commit_json(self.shards, [vars(shard) for shard in shards if shard.inputs])
        revise(before, self.folder, now, frozenset(self.removed))
        commit_json(self.folder / "counts.json", vars(total))

    def _check(self, total: Counts) -> None:
        """Raises DatasetError where nothing would be left to train on."""
        if not total.rows["train"]:
            raise DatasetError(
                f"no row of the training split of {self.layout.root} would be left; is this the source that it was built from? "
                "If it is, build it anew with --overwrite"
            )

    def _now(self, number: int) -> dict[str, Any]:
        """A file of the dataset as it will be, under the name that it has."""
        record = self._record(number)
        return Renewed.load(record).stored if record.exists() else self._files[number]

    def _renew(self, shard: Counts, places: Sequence[int]) -> None:
        """The counts of a shard, whose files are these of the dataset, as they will be."""
        files = []
        for place, old in zip(places, shard.files):
            record = self._record(place)
            if record.exists():
                renewed = Renewed.load(record)
                shard.less(renewed.minus)
                shard.merge(renewed.plus)
                old = {**renewed.stored, "name": old["name"]}
            files.append(old)
        shard.files = [one for one in files if one["rows"]]
        shard.notes = _without(shard.notes, self._taken)


def plan_of(layout: Layout) -> Plan:
    """The plan of a dataset. Raises DatasetError where it is gone."""
    plan = Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    return plan


def _places(shards: Sequence[Path]) -> dict[str, tuple[Path, int]]:
    """source -> where its row lies: the file, and the row's number in it."""
    found: dict[str, tuple[Path, int]] = {}
    for shard in shards:
        for stored in Counts.load(shard / "counts.json").files:
            path = shard / stored["name"]
            sources = chain.from_iterable(batch.column(0).to_pylist() for batch in batches(path, ["source"]))
            found |= {source: (path, number) for number, source in enumerate(sources)}
    return found


def _in_order(places: Sequence[tuple[Path, int]], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows there, in this order; each file is read on from row to row for as long as they ascend."""
    runs: dict[Path, list[list[int]]] = {}
    for path, number in places:
        of_file = runs.setdefault(path, [[]])
        if of_file[-1] and number < of_file[-1][-1]:
            of_file.append([])
        of_file[-1].append(number)
    readers = {path: _read(path, columns, of_file) for path, of_file in runs.items()}
    return (next(readers[path]) for path, _ in places)


def _read(path: Path, columns: Sequence[str], runs: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """The rows of a file by their numbers, each run of which ascends."""
    for numbers in runs:
        yield from take(path, columns, numbers)


def _lines(rejects: bytes) -> list[bytes]:
    """As they are: names in them may hold letters that end a line of text, but of no file."""
    return rejects.splitlines(keepends=True)


def _of(line: bytes) -> dict[str, Any]:
    return dict(json.loads(line))


def _without(notes: Mapping[str, Mapping[str, Any]], taken: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Notes of a build without what they say of these inputs, where they name them."""
    left = Notes()
    for kind, noted in notes.items():
        names = [name for name in noted["names"] if name not in taken]
        if count := noted["count"] - (len(noted["names"]) - len(names)):
            left.merge({kind: {"count": count, "names": names}})
    return left.found
