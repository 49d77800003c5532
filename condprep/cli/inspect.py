"""`condprep inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import Json
from condprep.dataset.records import annotator
from condprep.runtime.text import plain_json

if TYPE_CHECKING:
    from condprep.dataset.inspect import DatasetSummary

MOST_SIZES = 8  # lines of sizes


def inspect(
    dataset: Annotated[str, Argument(help="a dataset's folder, or its URL")],
    sheet: Annotated[Path | None, Option(help="also draw pictures beside their maps, into this PNG or JPEG")] = None,
    rows: Annotated[int, Option(help="rows on the sheet")] = 12,
    as_json: Json = False,
) -> None:
    """What is in a dataset: rows, sizes, captions, provenance, rejects. Exit code 1 where a file of it is damaged."""
    from condprep.dataset.contact_sheet import FORMATS
    from condprep.dataset.contact_sheet import sheet as draw
    from condprep.dataset.inspect import summarize
    from condprep.runtime.folder import check_suffix

    if sheet:
        check_suffix(sheet, FORMATS, "a contact sheet")
    show_dataset(summary := summarize(dataset), as_json)
    if sheet:
        draw(dataset, sheet, rows=rows)
        console.say(f"contact sheet: {sheet}")
    if summary.problems:
        raise typer.Exit(1)


def show_dataset(summary: DatasetSummary, as_json: bool) -> None:
    """The facts on standard output, problems on standard error."""
    if as_json:
        print(plain_json(summary.to_json()))
    else:
        console.show_facts(_facts(summary))
    for problem in summary.problems:
        console.fail(problem)


def _facts(summary: DatasetSummary) -> Iterator[tuple[str, str]]:
    for split, rows in summary.rows.items():
        yield "rows", f"{split} {rows:,}, {summary.bytes[split] / 1e6:,.1f} MB"
    yield "columns", ", ".join(f"{name} ({kind})" for name, kind in summary.columns.items())
    sizes = list((summary.sizes or {}).items())
    for size, rows in sizes[:MOST_SIZES]:
        yield "size", f"{size} px: {rows:,}"
    if len(sizes) > MOST_SIZES:
        yield "", f"and {len(sizes) - MOST_SIZES:,} other sizes"
    if captions := summary.captions:
        shortest, median, longest = captions.words
        words = f"words: {shortest} to {longest}, median {median}"
        yield "captions", f"{captions.missing:,} missing, {captions.several:,} several; {words}"
    if summary.enlarged is not None:
        yield "enlarged", f"{summary.enlarged:,}"
    for column, counts in summary.people.items():
        yield column, ", ".join(f"{people} people: {rows:,}" for people, rows in counts.items())
    made = (summary.provenance or {}).get("annotators")
    for one in made if isinstance(made, list) else []:
        with suppress(LookupError, TypeError, AttributeError):  # what came with a dataset may be anything
            known = annotator(one)
            yield known["column"], console.describe_annotator(known)
    yield from console.describe_rejects(summary.rejects or {})
