"""`condprep.report`: one page to look at a paired dataset, its findings, distributions, rejects and provenance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from condprep.dataset.pairs.open import reopen
from condprep.dataset.remote import here
from condprep.errors import UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.folder import check_suffix
from condprep.runtime.progress import Progress
from condprep.runtime.quiet import quiet_pillow
from condprep.verification.findings import VerifyResult, kept_result, named_columns, scores_path
from condprep.verification.verify import verify
from condprep.weights.find import Weights

PAGES = (".html", ".htm")
MOST_PAIRS = 2000  # on a page that a browser still opens at once


@dataclass(frozen=True)
class ReportResult:
    """A page that was written."""

    path: Path
    rows: int  # of the dataset
    shown: int  # rows of which the page has pictures
    bytes: int  # size of the page
    verified: VerifyResult  # what it shows
    seconds: float


def report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    pairs: int = 400,
    seed: int = 0,
    config: str | None = None,
    follow_links: Sequence[str | os.PathLike[str]] = (),
    scores: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    weights: Weights | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ReportResult:
    """Write a self-contained HTML page about a dataset that `verify` reads. It is verified first where that was not done
    since it changed.

    source: what the dataset was built from; its rejects are then shown with their pictures. pairs: the most pairs that
    are shown, the worst of each rule and others drawn at random (the same ones for the same seed); fewer where the page
    would exceed 10 MB. The columns, config, follow_links, scores, workers and weights are those of `verify`; columns that are not named are
    those of its last run. Raises UsageError (or its children) where there is no dataset of pairs.
    """
    from condprep.reporting.collect import collect
    from condprep.reporting.page import write_page

    began = time.monotonic()
    check_suffix(Path(out), PAGES, "a report")
    if not 0 < pairs <= MOST_PAIRS:
        raise UsageError(f"pairs = {pairs}: a page shows from 1 to {MOST_PAIRS} pairs")
    place = Path(scores) if scores else scores_path(here(path))
    named = {"image": image_column, "condition": condition_column, "caption": caption_column}
    columns = named if any(named.values()) else named_columns(place)
    opened = reopen(path, columns, config, [Path(folder) for folder in follow_links])
    result = kept_result(str(path), place, opened.stamp, columns) or verify(
        path,
        image_column=columns["image"],
        condition_column=columns["condition"],
        caption_column=columns["caption"],
        config=config,
        follow_links=follow_links,
        scores=place,
        workers=workers,
        weights=weights,
        progress=progress,
    )
    pictures = None if source is None else os.fspath(source)
    with ThreadPoolExecutor(workers or usable_cores()) as pool, quiet_pillow():
        found = collect(opened, result, columns, pool, most=pairs, seed=seed, source=pictures)
    size = write_page(found, Path(out))
    return ReportResult(Path(out), result.rows, len(found.cards), size, result, time.monotonic() - began)
