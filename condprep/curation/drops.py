"""What `condprep curate` can leave out, by name, and which of several rows of the same picture stays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from condprep.errors import UsageError
from condprep.verification.check import nearest
from condprep.verification.findings import Finding

Keep = Literal["best", "first", "largest"]
KEEP: Sequence[Keep] = ("best", "first", "largest")
ALL = "*"  # every rule of a check

# name -> the rules whose findings it leaves out
DROPS: Mapping[str, Sequence[tuple[str, str]]] = {
    "unreadable": [("structure", "readable")],
    "mismatched": [("structure", "size"), ("structure", "aspect"), ("structure", "orientation")],
    "captionless": [("structure", "caption"), ("structure", "no-caption")],
    "wrong-maps": [("condition", ALL)],
    "misaligned": [("alignment", ALL)],
    "duplicates": [("curation", "duplicate")],
    "near-duplicates": [("curation", "duplicate"), ("curation", "near-duplicate")],
    "leaks": [("curation", "leak")],
    "blurry": [("curation", "blurred")],
    "upscaled": [("curation", "upscaled")],
    "dark": [("curation", "dark")],
    "light": [("curation", "light")],
    "flat": [("curation", "flat")],
    "extreme-aspect": [("curation", "extreme-aspect")],
    "jpeg-damage": [("curation", "jpeg-damage")],
    "bars": [("curation", "bars")],
    "nobody": [("curation", "nobody")],
    "edge-density": [("curation", "edge-density")],
    "markup": [("curation", "markup")],
    "language": [("curation", "language")],
}
REPEATS = ("duplicate", "near-duplicate")  # rules of which one row of each group stays


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is left out."""

    name: str
    reason: str


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. Raises UsageError for one that there is not."""
    found = tuple(dict.fromkeys(names))
    if stray := [name for name in found if name not in DROPS]:
        raise UsageError(f"--drop {stray[0]}: no such name{nearest(stray[0], list(DROPS))}")
    return found


def needed_checks(names: Iterable[str]) -> set[str]:
    """The groups of checks that find what these names leave out."""
    return {check for name in names for check, _ in DROPS[name]}


def decide(
    findings: Sequence[Finding], names: Sequence[str], keep: Keep, scores: Path, mended: Collection[int] = ()
) -> dict[int, Drop]:
    """row -> why it is left out.

    Of rows that show the same picture one stays, unless all are left out for another reason: one of the first split that has
    it; one that is not to be `mended`, which may fail; and of those the first; the largest, in pixels; or the best: of the
    fewest other findings, then of the most detail, which is the pixels times the sharpness twice. scores: verify.parquet.
    """
    drops: dict[int, Drop] = {}
    for one in findings:
        if one.row is not None and (one.twin is None or one.rule not in REPEATS) and (name := _name(one, names)):
            drops.setdefault(one.row, Drop(name, one.reason))
    repeats = [one for one in findings if one.rule in REPEATS and _name(one, names)]
    prefer = _preference(keep, findings, scores, mended) if repeats else None
    for rows, called in _groups(repeats, names):
        if prefer and (left := [row for row in rows if row not in drops]):
            best = min(left, key=prefer)
            reason = f"row {best} shows the same, or nearly, and stays" + " if it can be repaired" * (best in mended)
            drops |= {row: Drop(called[row], reason) for row in left if row != best}
    return drops


def _name(finding: Finding, names: Sequence[str]) -> str | None:
    """The first of the names that leaves a finding out."""
    for name in names:
        if any(check == finding.check and rule in (ALL, finding.rule) for check, rule in DROPS[name]):
            return name
    return None


def _groups(repeats: Sequence[Finding], names: Sequence[str]) -> Iterable[tuple[list[int], Mapping[int, str]]]:
    """Rows of the same picture, ascending, and the name under which each would be left out."""
    twins = {one.row: one.twin for one in repeats if one.row is not None and one.twin is not None}
    name = {one.row: _name(one, names) or names[0] for one in repeats if one.row is not None}
    groups: dict[int, list[int]] = defaultdict(list)
    for row in sorted(twins):
        root = row
        while root in twins:  # a twin is an earlier row: this ends
            root = twins[root]
        groups[root].append(row)
    for root, rows in groups.items():
        yield [root, *rows], {root: name[rows[0]]} | name


def _preference(
    keep: Keep, findings: Sequence[Finding], scores: Path, mended: Collection[int]
) -> Callable[[int], tuple[float, ...]]:
    """The smaller, the rather a row stays."""
    columns = ["split", "image_width", "image_height", "sharpness"]
    table: dict[str, Any] = pq.read_table(scores, columns=columns).to_pydict()
    split, width, height, sharpness = table.values()
    splits = {name: number for number, name in enumerate(dict.fromkeys(split))}  # rows lie split by split
    faults = Counter(one.row for one in findings if one.rule not in REPEATS and one.severity != "info")

    def wanted(row: int) -> tuple[float, ...]:
        pixels = float((width[row] or 0) * (height[row] or 0))
        if keep == "first":
            return ()
        return (-pixels,) if keep == "largest" else (faults[row], -pixels * (sharpness[row] or 0) ** 2)

    return lambda row: (splits[split[row]], row in mended, *wanted(row), row)
