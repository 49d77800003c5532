"""`python -m trainer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.cli.options import Output, WhichCheckpoint, WhichWeights
from trainer.types import ONE_FILE, Precision, Program

ToProgram = Annotated[
    Program, typer.Option("--to", help="the program that is to read it; docs/export.md has the names")
]
OneFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="the file (default: the name of OUTPUT, in this folder)")
]
FilePrecision = Annotated[Precision, typer.Option("--precision", help="of the file")]
Title = Annotated[str, typer.Option(help="for the header; programs show it (default: what it is)")]
Author = Annotated[str, typer.Option(help="for the header: who made it")]
Licence = Annotated[str, typer.Option(help="for the header: under what it may be used")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the file that is there")]


def export(
    output: Output,
    to: ToProgram,
    out: OneFile = None,
    checkpoint: WhichCheckpoint = None,
    weights: WhichWeights = "best",
    precision: FilePrecision = "fp16",
    title: Title = "",
    author: Author = "",
    licence: Licence = "",
    overwrite: Overwrite = False,
) -> None:
    """Write the ControlNet into one file for another program."""
    from condprep.cli.console import say
    from trainer.inference.single_file import export as run

    path = out or Path(f"{output.resolve().name}{ONE_FILE}")
    words: dict[str, Any] = {"title": title, "author": author, "licence": licence}
    which: dict[str, Any] = {"checkpoint": checkpoint, "weights": weights, "precision": precision}
    print(run(output, path, to=to, overwrite=overwrite, say=say, **which, **words))
