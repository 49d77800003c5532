"""`condprep weights list`, `pull` and `where`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from condprep.cli import console
from condprep.cli.help import Verb, Verbs
from condprep.cli.options import Json, WeightsFolder, open_weights

app = typer.Typer(
    cls=Verbs, help="Which weights the annotators need, where they lie, and getting them.", no_args_is_help=True
)

Files = Annotated[list[str], Argument(help="files as `weights list` names them")]


@app.command("list", cls=Verb)
def weights_list(weights: WeightsFolder = None, as_json: Json = False) -> None:
    """Every weights file: source, size, licence, sha256, and where it lies on this machine."""
    from condprep.weights.find import table

    store = open_weights(weights)
    rows = [(pin, store.locate(pin.name)) for pin in table()]
    if as_json:
        console.print_json([dataclasses.asdict(pin) | {"path": path and str(path)} for pin, path in rows])
        return
    console.show_table(
        ("file", "size", "from", "licence", "sha256", "here"),
        [
            (pin.name, pin.megabytes, str(pin.origin), pin.licence, pin.sha256[:12], str(path or "no"))
            for pin, path in rows
        ],
    )


@app.command("pull", cls=Verb)
def weights_pull(
    names: Files,
    to: Annotated[Path | None, Option(help="copy them into this folder, to be carried elsewhere")] = None,
) -> None:
    """Download weights, checked against their pinned sha256."""
    store = open_weights(None)
    for name in names:
        print(store.pull(name, to) if to else store.get(name).path)


@app.command("where", cls=Verb)
def weights_where(names: Files, weights: WeightsFolder = None) -> None:
    """Where weights lie on this machine; exit code 1 when one does not."""
    store = open_weights(weights)
    found = {name: store.find(name) for name in names}
    for name, file in found.items():
        print(file.path) if file else console.say(f"{name} is not on this machine; `condprep weights pull {name}`")
    if not all(found.values()):
        raise typer.Exit(1)
