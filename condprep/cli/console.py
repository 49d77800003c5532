"""The two streams of the command line: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from condprep.annotators.protocol import full_name
from condprep.errors import REJECTS
from condprep.runtime.text import plain, plain_json

SHOWN = 3  # names of a kind; --json and the records have more


def say(line: str) -> None:
    """A line that the user must see."""
    from condprep.cli.terminal import err, escape

    err.print(escape(line), style="yellow", highlight=False)


def fail(line: str) -> None:
    """What ended the command."""
    from condprep.cli.terminal import err, escape

    err.print(f"[bold red]error:[/] {escape(line)}", highlight=False)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names in one column, what is said of them in another."""
    show_table((), facts)


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]], emphasised: Container[str] = ()) -> None:
    """Columns side by side on a terminal; piped, a row a line with tabs between whole values, whatever their length.

    titles: none of a table that needs no header. emphasised: first values of the rows that stand out.
    """
    from condprep.cli.terminal import escape, out

    if not out.is_terminal:
        for row in (titles, *rows) if titles else rows:
            print(*(" ".join(plain(value).split()) for value in row), sep="\t")
        return
    from rich.table import Table

    table = Table(*titles, show_header=bool(titles), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, row), style="bold" if row[0] in emphasised else None)
    out.print(table, soft_wrap=False)


def by_number(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first."""
    return sorted(counts.items(), key=lambda item: -item[1])


def describe_rejects(counts: Mapping[str, int], listed: Path | None = None) -> Iterator[tuple[str, str]]:
    """Code -> inputs, the most frequent first: the code, and what it means where it is one of condprep's.

    listed: the rejects.jsonl whose first names of each code are shown.
    """
    names = _first_rejects(listed, counts) if listed else {}
    for code, inputs in by_number(counts):
        meaning = f": {REJECTS[code]}" if code in REJECTS else ""
        yield "rejected", f"{inputs:,} x {code}{meaning}" + first_names(names.get(code, []), inputs)


def first_names(names: Sequence[str], count: int) -> str:
    """ " (a.jpg, b.jpg, c.jpg ...)", or nothing."""
    shown = ", ".join(one_line(name) for name in names[:SHOWN])
    return f" ({shown}{' ...' * (count > SHOWN)})" if shown else ""


def _first_rejects(listed: Path, counts: Mapping[str, int]) -> dict[str, list[str]]:
    """The first inputs of each code; read no further than to the last of them."""
    found: dict[str, list[str]] = {code: [] for code in counts}
    missing = {code: min(SHOWN, inputs) for code, inputs in counts.items()}
    with suppress(OSError, ValueError, KeyError, TypeError), listed.open(encoding="utf-8") as lines:
        while sum(missing.values()):
            reject = json.loads(next(lines, ""))
            if missing.get(reject["code"]):
                found[reject["code"]].append(str(reject["source"]))
                missing[reject["code"]] -= 1
    return found


def describe_annotator(made: Mapping[str, Any]) -> str:
    """ "openpose:cmu; low = 100; body_pose_model.pth 25a948c16078; CMU licence": a record of provenance."""
    name = full_name(made["annotator"], made["variant"])
    parameters = [f"{key} = {value}" for key, value in made["parameters"].items()]
    weights = [f"{file} {sha256[:12]}" for file, sha256 in made["weights"].items()]
    return "; ".join([name, *parameters, *weights, made["licence"]])


def one_line(text: str) -> str:
    """Text of a dataset as one line without control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:300]


def print_json(value: Any) -> None:
    print(plain_json(json.dumps(value, indent=2, default=_plain, ensure_ascii=False)))


def _plain(value: Any) -> Any:
    """Dataclasses, paths and mappings as JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
