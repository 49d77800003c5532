"""The verbs that look at pairs: `condprep verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from condprep.cli.options import Device, Json, WeightsFolder, names, open_weights, parse_sample, parse_settings


def verify(
    dataset: Annotated[
        str,
        typer.Argument(help="a dataset of pairs: folder, Arrow, Parquet, Hub id, two folders of pictures, prompt.json"),
    ],
    image_column: Annotated[str | None, typer.Option(help="column, or folder, of the pictures")] = None,
    condition_column: Annotated[str | None, typer.Option(help="column, or folder, of the condition maps")] = None,
    caption_column: Annotated[str | None, typer.Option(help="column of the captions")] = None,
    checks: Annotated[
        list[str], typer.Option(help="structure, condition, alignment or curation; repeatable (default: all)")
    ] = [],  # noqa: B006
    annotator: Annotated[
        str | None, typer.Option("--annotator", "-a", help="what made the maps, where the dataset does not say it")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(help="rows whose maps are made again, or all (default: all without a network, else 512)"),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="a threshold, as structure.max_aspect_error=2, or the annotator's; repeatable"),
    ] = [],  # noqa: B006
    fail_on: Annotated[
        Literal["error", "warning", "info"], typer.Option(help="exit code 1 for findings this severe, or more")
    ] = "error",
    scores: Annotated[
        Path | None, typer.Option(help="Parquet file of all scores (default: .condprep/verify.parquet, or beside)")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="threads (default: the cores)")] = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    as_json: Json = False,
) -> None:
    """Find the pairs that would derail training: exit code 1 where there are some."""
    from condprep.cli import console
    from condprep.verification.verify import verify as run

    with console.progress() as progress:
        result = run(
            dataset,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            checks=names(checks),
            annotator=annotator,
            sample=parse_sample(sample),
            settings=parse_settings(settings),
            scores=scores,
            workers=workers,
            device=device,
            weights=open_weights(weights, strict=False),
            progress=progress,
        )
    console.show_verify(result, as_json)
    if result.failures(fail_on):
        raise typer.Exit(1)
