"""Everything that a report shows, gathered from a dataset: rows, findings, distributions, rejects, provenance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from condprep.annotators.protocol import full_name
from condprep.dataset.inspect import DatasetSummary, summarize
from condprep.dataset.pairs.open import Pair, Pairs, reopen
from condprep.dataset.remote import here
from condprep.errors import CondprepError
from condprep.reporting.choice import FOUND, choose_rows, label, worst_first
from condprep.reporting.histograms import Histogram, histograms
from condprep.reporting.rejects import Rejects, rejects
from condprep.reporting.thumbnails import Thumbnail, fitting_side, thumbnail
from condprep.runtime.concurrency import ordered_map
from condprep.verification.check import SEVERITIES, Severity
from condprep.verification.findings import Finding, VerifyResult
from condprep.verification.opened import memory_of, under_way

MOST_BYTES = 8_500_000  # of thumbnails: the page stays below 10 MB
MOST_ROWLESS = 50  # findings of no row that are shown
LETTERS = 600  # of a caption, a name or a reason
AHEAD = 16  # pairs that are opened ahead of the page


@dataclass(frozen=True)
class Rule:
    """A rule that was broken."""

    name: str  # "condition: kind"
    severity: Severity
    findings: int


@dataclass
class Card:
    """A pair on the page."""

    row: int
    key: str
    caption: str
    picture: Thumbnail
    maps: dict[str, Thumbnail]  # column -> map
    size: str = ""  # "512 × 512", or "" where the picture cannot be decoded
    findings: list[Finding] = field(default_factory=list)
    ranks: dict[str, int] = field(default_factory=dict)  # rule -> place among its rows, 0 the worst

    @property
    def severity(self) -> Severity | None:
        """The gravest of its findings."""
        return max((one.severity for one in self.findings), key=SEVERITIES.index, default=None)

    @property
    def bytes(self) -> int:
        return len(self.picture.uri) + sum(len(one.uri) for one in self.maps.values())


@dataclass(frozen=True)
class Found:
    """What the page is made of."""

    verified: VerifyResult
    splits: Mapping[str, int]  # split -> rows, where the dataset has splits
    rules: Sequence[Rule]  # gravest first
    rowless: Sequence[Finding]  # of damaged files and of pictures without a map: the first of them
    cards: Sequence[Card]  # the worst first, those without findings last
    maps: Mapping[str, str]  # column -> what made it
    histograms: Sequence[Histogram]
    rejects: Rejects | None
    provenance: Mapping[str, Any]  # as the build recorded it; empty where nothing did


def collect(
    pairs: Pairs,
    verified: VerifyResult,
    columns: Mapping[str, str | None],
    pool: Executor,
    *,
    most: int,
    seed: int,
    source: str | None,
) -> Found:
    """Read what the page shows. columns: the names of those that were given one; most: pairs; source: of the rejects' pictures."""
    summary = _summary(here(verified.path))
    maps = _maps(summary) if summary else {}
    worst = worst_first(verified.findings, verified.scores)
    chosen = choose_rows(worst, verified.rows, most, seed)
    side = fitting_side(len(chosen) * (1 + max(1, len(maps))), MOST_BYTES)
    by_row = {card.row: card for card in _cards(pairs, set(chosen), side, pool)}
    for column in maps:
        _add_map(by_row, reopen(verified.path, {**columns, "condition": column}), column, side, pool)
    _add_findings(by_row, verified, worst)
    _add_sizes(by_row, verified.scores)
    return Found(
        verified=verified,
        splits=summary.rows if summary else {},
        rules=_rules(verified),
        rowless=[one for one in verified.findings if one.row is None][:MOST_ROWLESS],
        cards=_fitting([by_row[row] for row in chosen if row in by_row]),
        maps=maps,
        histograms=histograms(verified.scores, _people(summary)),
        rejects=rejects(here(verified.path), source, pool),
        provenance=_recorded(summary),
    )


def _summary(path: Path) -> DatasetSummary | None:
    """Of a folder of Arrow or Parquet files; the other layouts have none."""
    with suppress(CondprepError):
        return summarize(path)
    return None


def _recorded(summary: DatasetSummary | None) -> Mapping[str, Any]:
    provenance: Any = summary and summary.provenance
    return provenance if isinstance(provenance, dict) else {}


def _people(summary: DatasetSummary | None) -> Counter[int] | None:
    """People in a picture -> rows, by the first column of keypoints."""
    return Counter(next(iter(summary.people.values()))) if summary and summary.people else None


def _maps(summary: DatasetSummary) -> dict[str, str]:
    """column -> annotator, as it was recorded, where each annotator has a column of its own."""
    with suppress(KeyError, TypeError, AttributeError):  # records are no more trusted than rows
        made = (summary.provenance or {})["annotators"]
        names = {one["column"]: full_name(one["annotator"], one["variant"]) for one in made}
        return {column: name for column, name in names.items() if summary.columns.get(column) == "image"}
    return {}


def _cards(pairs: Pairs, rows: set[int], side: int, pool: Executor) -> Iterator[Card]:
    """The pairs of those rows, with one map each."""

    def card(pair: Pair) -> Card:
        shown, condition = (_shown(pair, data, side) for data in (pair.image, pair.condition))
        return Card(pair.row or 0, pair.key[:LETTERS], _caption(pair.caption), shown, {"": condition})

    return ordered_map(pool, card, pairs.read(rows), AHEAD, memory_of, under_way(AHEAD))


def _shown(pair: Pair, data: bytes, side: int) -> Thumbnail:
    """The picture or the map of a pair, or in its place why it cannot be read."""
    return Thumbnail(problem=pair.problem) if pair.problem and not data else thumbnail(data, side)


def _caption(value: Any) -> str:
    """Whatever the dataset holds, as text, and not endless."""
    if value is None or isinstance(value, str):
        return (value or "")[:LETTERS]
    return (
        " | ".join(str(one)[:LETTERS] for one in value)[:LETTERS] if isinstance(value, list) else str(value)[:LETTERS]
    )


def _add_map(cards: Mapping[int, Card], pairs: Pairs, column: str, side: int, pool: Executor) -> None:
    """The maps of another column beside those that are there."""

    def drawn(pair: Pair) -> tuple[int, Thumbnail]:
        return pair.row or 0, _shown(pair, pair.condition, side)

    for row, small in ordered_map(pool, drawn, pairs.read(cards), AHEAD, memory_of, under_way(AHEAD)):
        cards[row].maps.pop("", None)
        cards[row].maps[column] = small


def _add_findings(cards: Mapping[int, Card], verified: VerifyResult, worst: Mapping[str, Sequence[int]]) -> None:
    """Findings and ranks of the rows that are shown."""
    for finding in verified.findings:
        if finding.row is not None and finding.row in cards:
            cards[finding.row].findings.append(finding)
    for rule, rows in worst.items():
        for rank, row in enumerate(rows):
            if row in cards:
                cards[row].ranks[rule] = rank


def _add_sizes(cards: Mapping[int, Card], scores: Path) -> None:
    """Sizes of the pictures of the rows that are shown, as they were measured."""
    columns = ["row", "image_width", "image_height"]
    with pq.ParquetFile(scores) as file:
        if not set(columns) <= set(file.schema_arrow.names):  # they were not asked for
            return
        for batch in file.iter_batches(columns=columns):
            for row, width, height in zip(*(column.to_pylist() for column in batch.columns)):
                if row in cards and width:
                    cards[row].size = f"{width} × {height}"


def _rules(verified: VerifyResult) -> list[Rule]:
    counts: dict[tuple[str, Severity], int] = defaultdict(int)
    for finding in verified.findings:
        counts[label(finding), finding.severity] += 1
    rules = [Rule(name, severity, n) for (name, severity), n in counts.items()]
    return sorted(rules, key=lambda rule: (-SEVERITIES.index(rule.severity), -rule.findings))


def _fitting(cards: Sequence[Card]) -> list[Card]:
    """As many as the page can hold; those without findings get their share of it."""
    bad = _within(MOST_BYTES * FOUND, [card for card in cards if card.findings])
    spent = sum(card.bytes for card in bad)
    return bad + _within(MOST_BYTES - spent, [card for card in cards if not card.findings])


def _within(budget: float, cards: Sequence[Card]) -> list[Card]:
    """The first cards whose thumbnails take no more than `budget` bytes together."""
    return [card for card, total in zip(cards, accumulate(card.bytes for card in cards)) if total <= budget]
