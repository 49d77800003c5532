"""`condprep split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import BreakLock, Json
from condprep.cli.progress import progress

Validation = Annotated[float, Option(help="share of the rows that is held out, 0 to below 1")]
By = Annotated[
    Literal["key", "group"], Option(help="what decides: each picture's key, or the folder or tar that it comes from")
]


def split(
    dataset: Annotated[str, Argument(help="a dataset of condprep")],
    validation: Validation,
    by: By = "key",
    break_lock: BreakLock = False,
    as_json: Json = False,
) -> None:
    """Hold out rows of a finished dataset: they move to its split `validation`, and nothing is encoded anew."""
    from condprep.curation.split import split as run

    with progress() as advance:
        result = run(dataset, validation, by=by, break_lock=break_lock, progress=advance)
    if as_json:
        console.print_json(result)
        return
    console.show_facts(
        [
            ("rows", ", ".join(f"{name} {rows:,}" for name, rows in result.rows.items())),
            ("moved", f"{result.moved:,}" if result.moved else _why_none(result.rows, validation)),
            ("time", f"{result.seconds:.1f} s"),
            ("dataset", result.url or str(result.path)),
        ]
    )
    if not result.rows.get("train"):
        console.say("no rows are left to train on; a smaller --validation leaves some")


def _why_none(rows: Mapping[str, int], validation: float) -> str:
    if validation and "validation" not in rows:
        from condprep.dataset.splits import enough

        several = min(0.9, max(enough(rows["train"]), round(2 * validation, 2)))
        return f"none: no key of {rows['train']:,} rows falls into that share; a larger one does, as --validation {several}"
    return "none: all are where they belong"
