"""What the command line shows: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from condprep.building.build import BuildResult
    from condprep.curation.curate import CurateResult
    from condprep.dataset.inspect import DatasetSummary
    from condprep.reporting.report import ReportResult
    from condprep.runtime.progress import Progress
    from condprep.verification.findings import VerifyResult

MOST_SIZES = 8  # lines of sizes that `inspect` shows
PLAIN_EVERY = 10.0  # seconds between progress lines where the output is no terminal

out, err = Console(), Console(stderr=True)


def say(line: str) -> None:
    """A line that the user must see."""
    err.print(escape(line), style="yellow", soft_wrap=True, highlight=False)


def fail(line: str) -> None:
    err.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True, highlight=False)


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A callback for `condprep.build`: a bar with rate and time left, or plain lines where there is no terminal."""
    if err.is_terminal:
        with RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
        ) as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class _Bars:
    def __init__(self, bars: RichProgress) -> None:
        self.bars, self.stage = bars, ""

    def __call__(self, state: Progress) -> None:
        if state.stage != self.stage:
            self.stage = state.stage
            for task in self.bars.task_ids:
                self.bars.remove_task(task)
            self.task = self.bars.add_task(state.stage, total=state.total, completed=state.done)
        rejects = f", {state.rejects} rejected" if state.rejects else ""
        self.bars.update(self.task, completed=state.done, description=state.stage + rejects)


class _Lines:
    def __init__(self) -> None:
        self.stage, self.first, self.began, self.last = "", 0, 0.0, 0.0

    def __call__(self, state: Progress) -> None:
        now = time.monotonic()
        if state.stage != self.stage:
            self.stage, self.first, self.began, self.last = state.stage, state.done, now, now
        elif now - self.last >= PLAIN_EVERY:
            self.last = now
            rate = (state.done - self.first) / (now - self.began)
            left = f", {(state.total - state.done) / rate:.0f} s left" if state.total and rate else ""
            print(
                f"{state.stage}: {state.done}/{state.total or '?'}, {state.rejects} rejected, {rate:.1f}/s{left}",
                file=sys.stderr,
                flush=True,
            )


def show_build(result: BuildResult, as_json: bool) -> None:
    """Inputs = rows + rejects, by reason, and what the rows are."""
    if as_json:
        print_json(result)
        return
    rows, rejected = sum(result.rows.values()), sum(result.rejects.values())
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("inputs", f"{result.inputs:,} = {rows:,} rows + {rejected:,} rejected")
    table.add_row("rows", ", ".join(f"{split} {n:,}" for split, n in result.rows.items()) or "none")
    for reason, n in sorted(result.rejects.items(), key=lambda item: -item[1]):
        table.add_row("rejected", escape(f"{n:,} x {reason}"))
    for made in result.annotators:
        table.add_row(made["column"], escape(_annotator(made)))
    table.add_row("enlarged", f"{result.enlarged:,}")
    table.add_row("kept bytes", f"{result.untouched:,} pictures needed no change")
    table.add_row("no caption", f"{result.without_caption:,}")
    table.add_row("size", f"{result.bytes / 1e6:,.1f} MB of pictures and maps")
    new = result.inputs - result.resumed
    rate = f", {new / result.seconds:.1f} pictures/s" if new and result.seconds else ""
    table.add_row(
        "time", f"{result.seconds:.1f} s{rate}" + (f", {result.resumed:,} done before" if result.resumed else "")
    )
    table.add_row("dataset", escape(str(result.path)))
    out.print(table)


def show_dataset(summary: DatasetSummary, as_json: bool) -> None:
    """What `inspect` found."""
    if as_json:
        print(summary.to_json())
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for split, rows in summary.rows.items():
        table.add_row("rows", f"{split} {rows:,}, {summary.bytes[split] / 1e6:,.1f} MB")
    table.add_row("columns", escape(", ".join(f"{name} ({kind})" for name, kind in summary.columns.items())))
    for size, rows in list((summary.sizes or {}).items())[:MOST_SIZES]:
        table.add_row("size", f"{size} px: {rows:,}")
    if len(summary.sizes or {}) > MOST_SIZES:
        table.add_row("", f"and {len(summary.sizes or {}) - MOST_SIZES:,} other sizes")
    if summary.captions:
        shortest, median, longest = summary.captions.words
        words = f"words: {shortest} to {longest}, median {median}"
        table.add_row(
            "captions", f"{summary.captions.missing:,} missing, {summary.captions.several:,} several; {words}"
        )
    if summary.enlarged is not None:
        table.add_row("enlarged", f"{summary.enlarged:,}")
    for column, counts in summary.people.items():
        table.add_row(column, ", ".join(f"{people} people: {rows:,}" for people, rows in counts.items()))
    for made in (summary.provenance or {}).get("annotators", []):
        table.add_row(made["column"], escape(_annotator(made)))
    for reason, inputs in (summary.rejects or {}).items():
        table.add_row("rejected", escape(f"{inputs:,} x {reason}"))
    out.print(table)
    for problem in summary.problems:
        fail(problem)


def _annotator(made: Mapping[str, Any]) -> str:
    """ "openpose:cmu, low = 100, weights body_pose_model.pth 25a948c16078, CMU licence" """
    name = ":".join(filter(None, (made["annotator"], made["variant"])))
    parameters = [f"{key} = {value}" for key, value in made["parameters"].items()]
    weights = [f"{file} {sha256[:12]}" for file, sha256 in made["weights"].items()]
    return "; ".join([name, *parameters, *weights, made["licence"]])


def show_annotated(written: Sequence[Path], rejects: Sequence[Any]) -> None:
    for path in written:
        print(path)
    for reject in rejects:
        fail(f"{reject.source}: {reject.reason}")


def show_annotators(specs: Sequence[Any], as_json: bool) -> None:
    """Name, variants, parameters, licence, weights."""
    from condprep.annotators.registry import parameters

    rows = [
        {
            "name": spec.name,
            "summary": spec.summary,
            "aliases": list(spec.aliases),
            "variants": dict(spec.variants),
            "parameters": parameters(spec),
            "licence": spec.licence,
            "weights": {variant: list(files) for variant, files in spec.weights.items()},
        }
        for spec in specs
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        out.print(f"[bold]{row['name']}[/]  {escape(row['summary'])}")
        for variant, line in row["variants"].items():
            out.print(f"  [cyan]{row['name']}{':' * bool(variant)}{variant}[/]  {escape(line)}")
        for name, line in row["parameters"].items():
            out.print(f"  --set {row['name']}.{name}=...  {escape(line)}", highlight=False)
        out.print(f"  licence: {escape(row['licence'])}", highlight=False)


def show_weights(rows: Sequence[tuple[Any, Path | None]], as_json: bool) -> None:
    if as_json:
        print_json([dataclasses.asdict(pin) | {"path": path and str(path)} for pin, path in rows])
        return
    table = Table("file", "size", "from", "licence", "sha256", "here")
    for pin, path in rows:
        table.add_row(
            pin.name, pin.megabytes, str(pin.origin), pin.licence, pin.sha256[:12], escape(str(path)) if path else "no"
        )
    out.print(table)


def show_findings(findings: Sequence[Any], as_json: bool) -> None:
    if as_json:
        print_json(findings)
        return
    styles = {"ok": "green", "warn": "yellow", "error": "bold red"}
    for finding in findings:
        out.print(f"[{styles[finding.level]}]{finding.level:5}[/] {escape(finding.what)}: {escape(finding.detail)}")
        if finding.remedy:
            out.print(f"      {escape(finding.remedy)}")


MOST_FINDINGS = 5  # of a rule that `verify` shows in words


def show_verify(result: VerifyResult, as_json: bool) -> None:
    """What `verify` found: the rules that were broken, worst first, with a few rows each."""
    for note in result.notes:
        say(note)
    if as_json:
        print_json({"rows": result.rows, "findings": [finding.public() for finding in result.findings]})
        return
    styles = {"error": "bold red", "warning": "yellow", "info": "cyan"}
    counts = result.counts()
    for (check, rule, severity), n in sorted(
        counts.items(), key=lambda item: (list(styles).index(item[0][2]), -item[1])
    ):
        out.print(f"[{styles[severity]}]{severity}[/] {check}: {rule}, {n:,} of {result.rows:,} rows", highlight=False)
        shown = [one for one in result.findings if (one.check, one.rule) == (check, rule)][:MOST_FINDINGS]
        for one in shown:
            where = "no row" if one.row is None else f"row {one.row}"
            line = f"  {where}  {escape(_line(one.key))}: {escape(_line(one.reason))}"
            out.print(line, highlight=False, soft_wrap=True)
        if n > len(shown):
            out.print(f"  and {n - len(shown):,} more")
    rate = f", {result.rows / result.seconds:.0f} rows/s" if result.seconds else ""
    clean = "" if result.findings else ": nothing to complain about"
    out.print(f"{result.rows:,} rows verified in {result.seconds:.1f} s{rate}{clean}")
    out.print(f"scores: {escape(str(result.scores))}", soft_wrap=True)


def show_report(result: ReportResult) -> None:
    """Where the page is, and how much of the dataset it shows."""
    for note in result.verified.notes:
        say(note)
    size = f"{result.bytes / 1e6:.1f} MB"
    err.print(f"{result.shown:,} of {result.rows:,} rows, {size}, {result.seconds:.1f} s", highlight=False)
    print(result.path)


def show_curate(result: CurateResult, as_json: bool) -> None:
    """inputs = rows + dropped, why they were dropped, and what was repaired."""
    for note in result.notes:
        say(note)
    if as_json:
        print_json(result)
        return
    rows, dropped = sum(result.rows.values()), sum(result.dropped.values())
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("inputs", f"{result.inputs:,} = {rows:,} rows + {dropped:,} dropped")
    table.add_row("rows", escape(", ".join(f"{split} {n:,}" for split, n in result.rows.items()) or "none"))
    for name, n in sorted(result.dropped.items(), key=lambda item: -item[1]):
        table.add_row("dropped", f"{n:,} x {name}")
    for repair, n in result.repaired.items():
        table.add_row("repaired", f"{n:,} x {repair}")
    table.add_row("time", f"{result.seconds:.1f} s" + (f", {result.resumed:,} done before" if result.resumed else ""))
    table.add_row("dataset", escape(str(result.path)))
    out.print(table)


def _line(text: str) -> str:
    """Text of a dataset as one line without control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:300]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Dataclasses, paths and mappings as JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
