"""What the command line shows of an evaluation."""

from __future__ import annotations

from pathlib import Path

from condprep.cli.console import print_json, say, show_table
from condprep.cli.terminal import escape, out
from trainer.evaluation.report import columns, lines, plain
from trainer.evaluation.result import Fidelity
from trainer.evaluation.scores import LOWER, NAMES

MOST_COLUMNS = 4  # measures that fit a terminal; the report has them all


def show(found: Fidelity, folder: Path, as_json: bool) -> None:
    """The table with its intervals and the findings on standard output, or the same as JSON."""
    if as_json:
        print_json(plain(found.public()) | {"report": str(folder)})
        return
    measures = columns(found)[:MOST_COLUMNS]
    titles = [NAMES[name] + (" (lower is better)" if name in LOWER else "") for name in measures]
    rows = [
        (arm, *(str(scores[name]) if name in scores else "" for name in measures))
        for arm, scores in found.scores.items()
    ]
    show_table(("", *titles), rows, emphasised={"controlnet"})
    for line in lines(found):
        say(line)
    out.print(f"report: {escape(str(folder))}")
