"""`condprep.curate`: a dataset without the rows that it is better without, and with those repaired that can be.

The rows that stay keep their very bytes. What becomes of every row is decided first, from what `verify` finds, and
written down; then the rows are copied shard by shard, as a build makes them: a run that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from condprep import __version__
from condprep.building.output_folder import at_target, check_outside, check_places, disk_errors, layout_of, locked
from condprep.building.plan import Plan, check_config
from condprep.curation.copying import SHARD_BYTES, SHARD_ROWS, Copy, source_scores
from condprep.curation.decisions import Decision, load, store
from condprep.curation.drops import KEEP, REPEATS, Drop, Keep, check_names, decide, needed_checks
from condprep.curation.repairs import REPAIRS, Repairer, repair_of
from condprep.curation.rows import Records, StoredRow, StoredRows, as_row, without_map
from condprep.dataset.card import write_card
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.shards import Counts, Row
from condprep.errors import BuildFailed, DatasetError, Rejected, UsageError
from condprep.runtime.files import commit, commit_json, commit_text, fsync, read_json
from condprep.runtime.own import remove_tree
from condprep.runtime.progress import Progress
from condprep.runtime.retry import retried
from condprep.types import Reject
from condprep.verification.findings import VerifyResult
from condprep.verification.unfinished import folder_of
from condprep.verification.verify import verify
from condprep.weights.find import Weights

# what the verification told; not in the plan, which is pushed: it may name files of this machine
NOTES = "notes.json"


@dataclass(frozen=True)
class CurateResult:
    """What `curate` made. inputs = sum of rows + sum of dropped."""

    path: Path
    inputs: int  # rows of the dataset
    rows: Mapping[str, int]  # split -> rows
    dropped: Mapping[str, int]  # name, as of --drop -> rows
    repaired: Mapping[str, int]  # repair -> rows
    notes: Sequence[str]  # what was guessed, damaged, or could not be repaired
    resumed: int  # rows that an earlier run had copied already
    seconds: float  # of this run
    url: str | None = None  # of a dataset that is not here: then `path` is the working folder


def curate(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    drop: str | Sequence[str] = (),
    *,
    keep: Keep = "best",
    fix: bool = False,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    config: str | None = None,
    follow_links: Sequence[str | os.PathLike[str]] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    trust_annotators: Sequence[str] = (),
    overwrite: bool = False,
    break_lock: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CurateResult:
    """Copy a dataset of Arrow or Parquet files to `out` without the rows that have the faults named in `drop`.

    drop: names of condprep.curation.drops.DROPS, "near-duplicates" and others. keep: which of several rows of the same picture
    stays: "best", "first" or "largest". fix: make maps again that the recorded annotator should have made otherwise, turn
    pictures upright, leave out what cannot be read. settings: thresholds of the checks. The other arguments are those of
    `verify` and `build`. dry_run: decide and count, and write nothing, for which `out` may be None. Raises UsageError (or its children) for what the caller got wrong, BuildFailed where no row stays.
    """
    began, names = time.monotonic(), _names(drop, fix, keep)
    if out is None and not dry_run:
        raise UsageError("give --out for the new dataset, or --dry-run to see what would be left out")
    out = out or f"{os.fspath(dataset).rstrip('/')}-curated"
    layout = Layout(Path(out)) if dry_run else layout_of(out)
    check_places(os.fspath(dataset), layout)
    check_outside(os.fspath(dataset), layout)
    columns: dict[str, Any] = {
        "image_column": image_column,
        "condition_column": condition_column,
        "caption_column": caption_column,
    }
    opening = {"config": config, "follow_links": [Path(folder) for folder in follow_links]}
    run = _Run(StoredRows(dataset, columns | opening), layout, names, keep, fix, progress)
    how: dict[str, Any] = (
        columns | opening | {"settings": settings, "workers": workers, "device": device, "weights": weights}
    )
    how |= {"trust_annotators": trust_annotators}
    if dry_run:
        return CurateResult(layout.root, **run.foretell(how), resumed=0, seconds=time.monotonic() - began)
    with disk_errors(layout.root), at_target(layout, overwrite, break_lock), locked(layout):
        run.begin(None if overwrite else Plan.load(layout.private), how)
        run.copy(device, weights or Weights(), trust_annotators)
        made = run.finish()
    if not sum(made["rows"].values()):
        notes = "" if made["inputs"] else "".join(f"; {note}" for note in made["notes"])
        raise BuildFailed(
            f"none of the {made['inputs']} rows of {os.fspath(dataset)} stays{notes}; drop less, or look with `condprep verify`"
        )
    return CurateResult(layout.root, **made, resumed=run.resumed, seconds=time.monotonic() - began, url=layout.url)


def _names(drop: str | Sequence[str], fix: bool, keep: str) -> tuple[str, ...]:
    """What is to be left out. Raises UsageError."""
    names = check_names([drop] if isinstance(drop, str) else drop)
    if not names and not fix:
        raise UsageError("nothing is to be done: name what to leave out with --drop, or say --fix")
    if keep not in KEEP:
        raise UsageError(f"--keep {keep}: it must be one of {', '.join(KEEP)}")
    return names


class _Run:
    """One call of `curate`, in the order of its methods."""

    def __init__(
        self,
        rows: StoredRows,
        layout: Layout,
        names: tuple[str, ...],
        keep: Keep,
        fix: bool,
        progress: Callable[[Progress], None],
    ) -> None:
        self.rows, self.layout, self.progress = rows, layout, progress
        self.names, self.keep, self.fix = names, keep, fix
        self.records = Records(Layout(rows.root))
        self.annotated = self.records.annotated
        self.resumed = 0

    def begin(self, plan: Plan | None, how: Mapping[str, Any]) -> None:
        """Decide what becomes of every row, or read what was decided. how: arguments of `verify`."""
        asked = {"drop": list(self.names), "keep": self.keep, "fix": self.fix, "settings": how["settings"] or {}}
        source = {"kind": "curation", "dataset": self.rows.listing} | {
            k: v for k, v in how.items() if "column" in k or (k == "config" and v)
        }
        config = {
            "condprep": __version__,
            "requested": {"options": self.records.options, "source": source, "curate": asked},
        }
        if plan:
            check_config(plan, config)
        else:
            plan = self._decide(config, how)
            self.layout.begin()
        self.plan = plan
        self.decisions = load(self.layout.private / "decisions.parquet")

    def _decide(self, config: dict[str, Any], how: Mapping[str, Any]) -> Plan:
        scores = source_scores(self.layout)
        self.layout.clear(keep=folder_of(scores))
        scores.parent.mkdir(parents=True, exist_ok=True)
        result = self._verify(scores, how)
        self.rows.check_unchanged(config["requested"]["source"]["dataset"])
        decisions = self._decisions(result)
        if self.layout.target:
            for path in scores.parent.iterdir():
                shutil.move(path, self.layout.private / path.name)
        commit(self.layout.private / "decisions.parquet", lambda partial: store(decisions, partial))
        damaged = {one.key: one.reason for one in result.findings if one.row is None and one.rule == "readable"}
        lengths = self.rows.lengths(damaged)
        if sum(lengths) != result.rows:
            raise DatasetError(
                f"{self.rows.root} has {sum(lengths)} rows now, and had {result.rows} when they were verified"
            )
        made = self.records.config.get("annotators", [])
        config |= {"annotators": made, "lengths": lengths}
        commit_json(self.layout.private / NOTES, [*result.notes, *damaged.values()])
        shard_rows = self.records.limit("shard_rows", SHARD_ROWS)
        plan = Plan(self.layout.private, config, result.rows, shard_rows, self.rows.listing)
        commit_json(
            self.layout.private / "plan.json",
            {"config": config, "inputs": plan.inputs, "shard_rows": shard_rows, "listing": plan.listing},
        )
        return plan

    def _verify(self, scores: Path, how: Mapping[str, Any]) -> VerifyResult:
        """What the checks find that these names, and repairs, ask for."""
        checks = {"structure"} | needed_checks(self.names)
        if self.fix and self.annotated:
            checks |= {check for rules in REPAIRS.values() for check, _ in rules}
        sample = "all" if "alignment" in checks else None
        how = dict(how) | {"checks": sorted(checks), "sample": sample, "scores": scores, "progress": self.progress}
        return verify(self.rows.dataset, **how)

    def foretell(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the result, of what would be made; nothing is written but scores that are thrown away."""
        with TemporaryDirectory() as folder:
            result = self._verify(Path(folder) / "scores.parquet", how)
            decisions = self._decisions(result)
        lengths = self.rows.lengths({one.key for one in result.findings if one.row is None and one.rule == "readable"})
        splits = (file.split for file, length in zip(self.rows.files, lengths) for _ in range(length))
        left = {row: one.drop for row, one in decisions.items() if one.drop}
        return {
            "inputs": result.rows,
            "rows": dict(Counter(split for row, split in enumerate(splits) if row not in left)),
            "dropped": dict(Counter(drop.name for drop in left.values())),
            "repaired": dict(Counter(repair for one in decisions.values() for repair in one.repairs)),
            "notes": [*result.notes, "a dry run: nothing was written, and no repair tried"],
        }

    def _decisions(self, result: VerifyResult) -> dict[int, Decision]:
        answers = [(one, repair_of(one, self.annotated) if self.fix else None) for one in result.findings]
        names = (*self.names, *(("unreadable",) if self.fix else ()))
        mended = {one.row for one, repair in answers if repair and one.row is not None}
        left = decide([one for one, repair in answers if not repair], names, self.keep, result.scores, mended)
        single = [one for one in result.findings if one.rule not in REPEATS]  # of repeats the others are left out
        otherwise = decide(single, names, self.keep, result.scores) if mended else {}
        repairs: dict[int, set[str]] = {}
        for one, repair in answers:
            if repair and one.row is not None and one.row not in left:
                repairs.setdefault(one.row, set()).add(repair)
        return {row: Decision(drop) for row, drop in left.items()} | {
            row: Decision(None, tuple(sorted(named)), otherwise.get(row)) for row, named in repairs.items()
        }

    def copy(self, device: str, weights: Weights, trust: Sequence[str]) -> None:
        """Every shard that is not there yet."""
        repairer = Repairer(self.rows.root, self.rows.image, self.rows.condition, device, weights, trust)
        said: list[str] = []

        def outcomes(start: int) -> Iterator[Row | Reject]:
            for row in self.rows.read(self.plan.config["lengths"], start, self.plan.inputs):
                outcome, words = self._outcome(row, repairer)
                said.extend(_line(row.number, word) for word in words)
                yield outcome

        def beside(shard: Path) -> None:
            _write(shard / "repairs.jsonl", said)
            said.clear()

        self.resumed = self._copy.run(outcomes, beside)

    @property
    def _copy(self) -> Copy:
        limit = self.records.limit("shard_bytes", SHARD_BYTES)
        return Copy(self.layout, self.plan, self.rows.schema, f".{self.rows.form}", limit, self.progress)

    def _outcome(self, row: StoredRow, repairer: Repairer) -> tuple[Row | Reject, list[str]]:
        """The row or its reject, and what was done to it, or could not be, in words."""
        decision = self.decisions.get(row.number, Decision())
        if row.values is None:
            return self._reject(row, Drop("unreadable", "its file is damaged here")), []
        if decision.drop:
            return self._reject(row, decision.drop), []
        try:
            values = retried(partial(repairer, row.values, decision.repairs), f"row {row.number}")
        except Rejected as failed:
            if (drop := decision.otherwise) is not None:
                return self._reject(row, Drop(drop.name, f"{drop.reason}; not repaired: {failed.reason}")), []
            return as_row(row, self.rows), [f"not repaired: {failed.reason}"]
        return as_row(replace(row, values=values), self.rows), list(decision.repairs)

    def _reject(self, row: StoredRow, drop: Drop) -> Reject:
        values = row.values or {}
        source = str(values.get("source") or row.name)
        return Reject(source, "curate", f"{drop.name}: row {row.number}: {drop.reason}", drop.name, values.get("key"))

    def finish(self) -> dict[str, Any]:
        """Final names, records, card, `done.json` last. Returns the fields of the result that the dataset remembers."""
        made = self.layout.private / "curation.json"
        if not self.layout.done.exists():
            self.rows.check_unchanged(self.plan.config["requested"]["source"]["dataset"])
            self.progress(Progress("finish", self.plan.inputs, self.plan.inputs))
            repairs = self._join_repairs()
            total = place_files(
                self.layout, self._copy.counts(), self.rows.features, self.rows.form, self.plan.id, self.records.rejects
            )
            if before := self.records.provenance:
                total.without_map = without_map(total.without_map, before["counts"]["without_map"])
            commit_json(made, self._made(total, repairs))
            self._describe(total, read_json(made))
            commit_json(self.layout.done, vars(total))
            self.layout.publish(file["name"] for file in total.files)
        remove_tree(self.layout.shards, ignore_errors=True)
        return dict(read_json(made))

    def _join_repairs(self) -> Counter[str]:
        """All shards' repairs in one file, and how many of each there are."""
        files = [self.layout.shard(shard) / "repairs.jsonl" for shard in range(self.plan.shards)]
        lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
        if lines:
            commit_text(self.layout.private / "repairs.jsonl", b"".join(lines).decode())
        return Counter(json.loads(line)["repair"].partition(":")[0] for line in lines)

    def _made(self, total: Counts, repairs: Counter[str]) -> dict[str, Any]:
        failed = repairs.pop("not repaired", 0)
        told = self.layout.private / NOTES
        notes = [
            *(read_json(told) if told.exists() else []),
            *([f"{failed} rows could not be repaired"] if failed else []),
        ]
        return {
            "inputs": self.plan.inputs,
            "rows": dict(total.rows),
            "dropped": dict(total.rejects),
            "repaired": dict(repairs),
            "notes": notes,
        }

    def _describe(self, total: Counts, made: Mapping[str, Any]) -> None:
        """Provenance and card of a dataset of condprep: its own, with what was done to it since."""
        before = self.records.provenance
        if not before or not total.rows:
            return
        counts = before["counts"] | total.figures()
        counts["rejects"] = Counter(before["counts"]["rejects"]) + total.rejects
        done = self.plan.config["requested"]["curate"] | {name: made[name] for name in ("dropped", "repaired")}
        write_card(self.layout, before | {"counts": counts, "curation": [*before.get("curation", []), done]})


def _line(row: int, word: str) -> str:
    return json.dumps({"row": row, "repair": word}, ensure_ascii=False) + "\n"


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("x", encoding="utf-8") as file:  # a new one, and through no link
        file.writelines(lines)
    fsync(path)
