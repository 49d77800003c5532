"""`python -m trainer fork`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condprep.cli.options import Json
from trainer.cli.options import DryRun, Output, Settings, WhichCheckpoint, WhichWeights

NewFolder = Annotated[Path | None, typer.Option("--out", "-o", help="the new run's folder (default: OUTPUT-fork)")]


def fork(
    output: Output,
    settings: Settings = [],  # noqa: B006
    out: NewFolder = None,
    checkpoint: WhichCheckpoint = None,
    weights: WhichWeights = "best",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Begin a new run from the weights of another one, with its recipe and what --set changes in it."""
    from trainer.cli import console
    from trainer.training.fork import Fork

    made = Fork.of(output, settings, out, checkpoint, weights)
    for note in made.notes():
        console.say(note)
    if dry_run:
        console.plan(made.rehearsed, as_json)
        return
    made.begin()
    console.load_libraries()
    from trainer.training.train import train

    with console.training_progress() as (progress, measured):
        result = train(made.recipe, say=console.say, progress=progress, measured=measured)
    console.show_result(result, as_json)
