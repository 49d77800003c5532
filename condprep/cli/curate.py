"""`condprep curate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import (
    BreakLock,
    CaptionColumn,
    ConditionColumn,
    Config,
    Device,
    FollowLinks,
    ImageColumn,
    Json,
    Overwrite,
    TrustAnnotators,
    WeightsFolder,
    Workers,
    names,
    open_weights,
    parse_settings,
)
from condprep.cli.progress import progress
from condprep.cli.stopping import telling

if TYPE_CHECKING:
    from condprep.curation.curate import CurateResult

Out = Annotated[str | None, Option("--out", "-o", help="the new dataset's folder; the same command again resumes")]
Drop = Annotated[
    list[str], Option(help="what to leave out, by the names below: near-duplicates,blurry ...; repeatable")
]
Keep = Annotated[Literal["best", "first", "largest"], Option(help="which of several rows of the same picture stays")]
Fix = Annotated[bool, Option("--fix", help="repair what is safe to repair: maps made again, pictures turned upright")]
DryRun = Annotated[bool, Option("--dry-run", help="say what would be left out, and write nothing")]
Thresholds = Annotated[
    list[str], Option("--set", help="a threshold (see below), as curation.min_sharpness=0.3; repeatable")
]


def curate(
    dataset: Annotated[str, Argument(help="a dataset of Arrow or Parquet files: ours or any other")],
    out: Out = None,
    drop: Drop = [],  # noqa: B006
    keep: Keep = "best",
    fix: Fix = False,
    dry_run: DryRun = False,
    settings: Thresholds = [],  # noqa: B006
    overwrite: Overwrite = False,
    break_lock: BreakLock = False,
    as_json: Json = False,
    image_column: ImageColumn = None,
    condition_column: ConditionColumn = None,
    caption_column: CaptionColumn = None,
    config: Config = None,
    follow_links: FollowLinks = [],  # noqa: B006
    workers: Workers = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    trust_annotator: TrustAnnotators = [],  # noqa: B006
) -> None:
    """Copy a dataset without the rows that it is better without; nothing is encoded anew."""
    from condprep.curation.copying import kept_copies
    from condprep.curation.curate import curate as run

    with telling(lambda: kept_copies(out) if out and not dry_run else None), progress() as advance:
        result = run(
            dataset,
            out,
            names(drop),
            keep=keep,
            fix=fix,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            config=config,
            follow_links=follow_links,
            settings=parse_settings(settings),
            workers=workers,
            device=device,
            weights=open_weights(weights),
            trust_annotators=trust_annotator,
            overwrite=overwrite,
            break_lock=break_lock,
            dry_run=dry_run,
            progress=advance,
        )
    show_curate(result, as_json, written=not dry_run)


def show_curate(result: CurateResult, as_json: bool, written: bool) -> None:
    """inputs = rows + dropped, why they were dropped, and what was repaired."""
    for note in result.notes:
        console.say(note)
    if as_json:
        console.print_json(result)
    else:
        console.show_facts(_facts(result, written))


def _facts(result: CurateResult, written: bool) -> Iterator[tuple[str, str]]:
    rows, dropped = sum(result.rows.values()), sum(result.dropped.values())
    yield "inputs", f"{result.inputs:,} = {rows:,} rows + {dropped:,} dropped"
    yield "rows", ", ".join(f"{split} {n:,}" for split, n in result.rows.items()) or "none"
    for name, n in console.by_number(result.dropped):
        yield "dropped", f"{n:,} x {name}"
    for repair, n in result.repaired.items():
        yield "repaired", f"{n:,} x {repair}"
    before = f", {result.resumed:,} done before" if result.resumed else ""
    yield "time", f"{result.seconds:.1f} s{before}"
    yield "dataset", result.url or str(result.path) if written else "none: nothing was written"
