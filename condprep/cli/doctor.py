"""`condprep doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from condprep.cli import console
from condprep.cli.options import Json, WeightsFolder, open_weights

STYLES = {"ok": "green", "warn": "yellow", "error": "bold red"}


def doctor(
    folder: Annotated[Path, Argument(help="where datasets will be written")] = Path(),
    weights: WeightsFolder = None,
    as_json: Json = False,
) -> None:
    """Versions that do not fit together, GPU, memory, disk, weights."""
    from condprep.cli.diagnosis import diagnose
    from condprep.cli.terminal import escape, out

    seen = diagnose(folder, weights=open_weights(weights))
    if as_json:
        console.print_json(seen)
    else:
        for one in seen:
            out.print(f"[{STYLES[one.level]}]{one.level:5}[/] {escape(one.what)}: {escape(one.detail)}")
            if one.remedy:
                out.print(f"      {escape(one.remedy)}")
    if any(one.level == "error" for one in seen):
        raise typer.Exit(1)
