"""`condprep report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condprep.cli.options import WeightsFolder, open_weights


def report(
    dataset: Annotated[str, typer.Argument(help="a dataset of pairs, as for `condprep verify`")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page to write, an HTML file")],
    source: Annotated[
        str | None, typer.Option(help="what the dataset was built from: shows the pictures of its rejects")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="column, or folder, of the pictures")] = None,
    condition_column: Annotated[str | None, typer.Option(help="column, or folder, of the condition maps")] = None,
    caption_column: Annotated[str | None, typer.Option(help="column of the captions")] = None,
    pairs: Annotated[int, typer.Option(help="the most pairs to show")] = 400,
    seed: Annotated[int, typer.Option(help="of the pairs that are drawn at random")] = 0,
    scores: Annotated[
        Path | None, typer.Option(help="Parquet file of all scores (default: .condprep/verify.parquet, or beside)")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="threads (default: the cores)")] = None,
    weights: WeightsFolder = None,
) -> None:
    """A page to look at: pairs, findings, distributions, rejects, provenance; one file that asks for nothing else."""
    from condprep.cli import console
    from condprep.reporting.report import report as run

    with console.progress() as progress:
        result = run(
            dataset,
            out,
            source=source,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            pairs=pairs,
            seed=seed,
            scores=scores,
            workers=workers,
            weights=open_weights(weights, strict=False),
            progress=progress,
        )
    console.show_report(result)
