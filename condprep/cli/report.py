"""`condprep report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import (
    CaptionColumn,
    ConditionColumn,
    Config,
    FollowLinks,
    ImageColumn,
    Scores,
    WeightsFolder,
    Workers,
    open_weights,
)
from condprep.cli.progress import progress
from condprep.cli.stopping import telling

if TYPE_CHECKING:
    from condprep.reporting.report import ReportResult

Rejects = Annotated[str | None, Option(help="what the dataset was built from: shows the pictures of its rejects")]


def report(
    dataset: Annotated[str, Argument(help="a dataset of pairs, as for `condprep verify`")],
    out: Annotated[Path, Option("--out", "-o", help="the page to write, an HTML file")],
    source: Rejects = None,
    pairs: Annotated[int, Option(help="the most pairs to show")] = 400,
    seed: Annotated[int, Option(help="of the pairs that are drawn at random")] = 0,
    image_column: ImageColumn = None,
    condition_column: ConditionColumn = None,
    caption_column: CaptionColumn = None,
    config: Config = None,
    follow_links: FollowLinks = [],  # noqa: B006
    scores: Scores = None,
    workers: Workers = None,
    weights: WeightsFolder = None,
) -> None:
    """A page to look at: pairs, findings, distributions, rejects, provenance; one file that asks for nothing else."""
    from condprep.reporting.report import report as run
    from condprep.verification.unfinished import kept_rows
    from condprep.verification.verify import place_of_scores

    with telling(lambda: kept_rows(place_of_scores(dataset, scores))), progress() as advance:
        result = run(
            dataset,
            out,
            source=source,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            config=config,
            follow_links=follow_links,
            pairs=pairs,
            seed=seed,
            scores=scores,
            workers=workers,
            weights=open_weights(weights),
            progress=advance,
        )
    show_report(result)


def show_report(result: ReportResult) -> None:
    """Where the page is, and how much of the dataset it shows."""
    from condprep.cli.terminal import err

    for note in filter(None, [*result.verified.notes, result.verified.gap]):
        console.say(note)
    size = f"{result.bytes / 1e6:.1f} MB"
    err.print(f"{result.shown:,} of {result.rows:,} rows, {size}, {result.seconds:.1f} s", highlight=False)
    print(result.path)
