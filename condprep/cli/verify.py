"""`condprep verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import (
    CaptionColumn,
    ConditionColumn,
    Config,
    Device,
    FollowLinks,
    ImageColumn,
    Json,
    Scores,
    TrustAnnotators,
    WeightsFolder,
    Workers,
    names,
    open_weights,
    parse_sample,
    parse_settings,
)
from condprep.cli.progress import progress
from condprep.cli.stopping import telling

if TYPE_CHECKING:
    from condprep.verification.findings import VerifyResult

MOST_FINDINGS = 5  # of a rule, in words
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}  # worst first

Checks = Annotated[list[str], Option(help="structure, condition, alignment or curation; repeatable (default: all)")]
Limit = Annotated[int | None, Option(help="only the first rows, so many, to try something")]
Annotator = Annotated[
    str | None, Option("--annotator", "-a", help="what made the maps, where the dataset does not say it")
]
Sample = Annotated[
    str | None, Option(help="rows whose maps are made again, or all (default: all without a network, else 512)")
]
Thresholds = Annotated[
    list[str],
    Option("--set", help="a threshold (see below), as structure.max_aspect_error=2, or the annotator's; repeatable"),
]
FailOn = Annotated[Literal["error", "warning", "info"], Option(help="exit code 1 for findings this severe, or more")]


def verify(
    dataset: Annotated[
        str, Argument(help="a dataset of pairs: folder, Arrow, Parquet, Hub id, two folders of pictures, prompt.json")
    ],
    limit: Limit = None,
    checks: Checks = [],  # noqa: B006
    annotator: Annotator = None,
    sample: Sample = None,
    settings: Thresholds = [],  # noqa: B006
    fail_on: FailOn = "error",
    as_json: Json = False,
    image_column: ImageColumn = None,
    condition_column: ConditionColumn = None,
    caption_column: CaptionColumn = None,
    config: Config = None,
    follow_links: FollowLinks = [],  # noqa: B006
    scores: Scores = None,
    workers: Workers = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    trust_annotator: TrustAnnotators = [],  # noqa: B006
) -> None:
    """Find the pairs that would derail training: exit code 1 where there are some."""
    from condprep.verification.unfinished import kept_rows
    from condprep.verification.verify import place_of_scores
    from condprep.verification.verify import verify as run

    with telling(lambda: kept_rows(place_of_scores(dataset, scores, limit))), progress() as advance:
        result = run(
            dataset,
            image_column=image_column,
            condition_column=condition_column,
            caption_column=caption_column,
            config=config,
            follow_links=follow_links,
            limit=limit,
            checks=names(checks),
            annotator=annotator,
            sample=parse_sample(sample),
            settings=parse_settings(settings),
            scores=scores,
            workers=workers,
            device=device,
            weights=open_weights(weights),
            trust_annotators=trust_annotator,
            progress=advance,
        )
    show_verify(result, as_json)
    if result.failures(fail_on):
        raise typer.Exit(1)


def show_verify(result: VerifyResult, as_json: bool) -> None:
    """The rules that were broken, worst first, with a few rows each."""
    from condprep.cli.terminal import escape, out

    for note in result.notes:
        console.say(note)
    if as_json:
        console.print_json({"rows": result.rows, "findings": [finding.public() for finding in result.findings]})
        return
    worst_first = sorted(result.counts().items(), key=lambda item: (list(STYLES).index(item[0][2]), -item[1]))
    for broken, _ in worst_first:
        _show_rule(result, broken)
    rate = f", {result.rows / result.seconds:.0f} rows/s" if result.seconds else ""
    clean = "" if result.findings else ": nothing to complain about"
    out.print(f"{result.rows:,} rows verified in {result.seconds:.1f} s{rate}{clean}")
    if result.not_run:
        out.print(escape(result.gap))
    out.print(f"scores: {escape(str(result.scores))}")


def _show_rule(result: VerifyResult, broken: Sequence[str]) -> None:
    """broken: (check, rule, severity)."""
    from condprep.cli.terminal import escape, out
    from condprep.curation.remedies import remedy

    check, rule, severity = broken
    found = [finding for finding in result.findings if (finding.check, finding.rule) == (check, rule)]
    line = f"[{STYLES[severity]}]{severity}[/] {check}: {rule}, {len(found):,} of {result.rows:,} rows"
    out.print(line, highlight=False)
    for finding in found[:MOST_FINDINGS]:
        where = "no row" if finding.row is None else f"row {finding.row}"
        named = console.one_line(finding.source or finding.key)
        out.print(f"  {where}  {escape(named)}: {escape(console.one_line(finding.reason))}", highlight=False)
    if len(found) > MOST_FINDINGS:
        out.print(f"  and {len(found) - MOST_FINDINGS:,} more")
    out.print(f"  deal with it: {escape(remedy(check, rule, result.path))}", highlight=False)
