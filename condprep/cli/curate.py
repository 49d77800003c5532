"""`condprep curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from condprep.cli.options import Device, Json, Overwrite, WeightsFolder, names, open_weights, parse_settings


def curate(
    dataset: Annotated[str, typer.Argument(help="a dataset of Arrow or Parquet files: ours or any other")],
    out: Annotated[Path, typer.Option(help="the new dataset's folder; the same command again resumes")],
    drop: Annotated[
        list[str], typer.Option(help="what to leave out, as near-duplicates,blurry,misaligned; see docs/curate.md")
    ] = [],  # noqa: B006
    keep: Annotated[
        Literal["best", "first", "largest"], typer.Option(help="which of several rows of the same picture stays")
    ] = "best",
    fix: Annotated[
        bool, typer.Option("--fix", help="repair what is safe to repair: maps made again, pictures turned upright")
    ] = False,
    image_column: Annotated[str | None, typer.Option(help="column of the pictures")] = None,
    condition_column: Annotated[str | None, typer.Option(help="column of the condition maps")] = None,
    caption_column: Annotated[str | None, typer.Option(help="column of the captions")] = None,
    settings: Annotated[
        list[str], typer.Option("--set", help="a threshold, as curation.min_sharpness=0.3; repeatable")
    ] = [],  # noqa: B006
    workers: Annotated[int | None, typer.Option(help="threads (default: the cores)")] = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Copy a dataset without the rows that it is better without; nothing is encoded anew."""
    from condprep.cli import console
    from condprep.curation.curate import curate as run

    with console.progress() as progress:
        result = run(
            dataset,
            out,
            names(drop),
            keep=keep,
            fix=fix,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            settings=parse_settings(settings),
            workers=workers,
            device=device,
            weights=open_weights(weights, strict=False),
            overwrite=overwrite,
            progress=progress,
        )
    console.show_curate(result, as_json)
