"""`condprep merge`."""

from __future__ import annotations

import shlex
from typing import Annotated

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import BreakLock, Json, Overwrite
from condprep.cli.progress import progress


def merge(
    datasets: Annotated[list[str], Argument(help="datasets of the same columns, two or more")],
    out: Annotated[str, Option("--out", "-o", help="the new dataset's folder; the same command again resumes")],
    overwrite: Overwrite = False,
    break_lock: BreakLock = False,
    as_json: Json = False,
) -> None:
    """Join datasets of the same columns, one behind the other; nothing is encoded anew."""
    from condprep.curation.merge import merge as run

    with progress() as advance:
        result = run(datasets, out, overwrite=overwrite, break_lock=break_lock, progress=advance)
    if as_json:
        console.print_json(result)
        return
    before = f", {result.resumed:,} rows done before" if result.resumed else ""
    console.show_facts(
        [
            ("rows", ", ".join(f"{name} {rows:,}" for name, rows in result.rows.items())),
            *(("from", f"{rows:,} of {name}") for name, rows in zip(datasets, result.datasets)),
            ("repeated", f"{result.repeated:,} rows show a picture that an earlier row shows"),
            ("time", f"{result.seconds:.1f} s{before}"),
            ("dataset", result.url or str(result.path)),
        ]
    )
    if result.repeated:
        leaks = f", {result.leaks:,} of them in another split" if result.leaks else ""
        console.say(
            f"{result.repeated:,} pictures are repeated{leaks}; `condprep curate {shlex.quote(result.url or str(result.path))} --out NEW --drop duplicates`"
        )
