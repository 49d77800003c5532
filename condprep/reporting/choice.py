"""Which rows a report shows: the worst of every rule, and others drawn at random."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import pyarrow.parquet as pq

from condprep.verification.check import SEVERITIES, Scores
from condprep.verification.findings import Finding
from condprep.verification.structure import aspect_error

FOUND = 0.75  # share of the rows shown that may have findings: the rest says what is usual


Badness = tuple[Sequence[str], Callable[[Scores], float]]  # the scores that are read, and the larger the worse


def _most(score: str) -> Badness:
    return [score], lambda scores: float(scores[score])


def _least(score: str) -> Badness:
    return [score], lambda scores: -float(scores[score])


def _aspect(scores: Scores) -> float:
    sizes = [(scores[f"{role}_width"], scores[f"{role}_height"]) for role in ("image", "condition")]
    return aspect_error(*sizes)


# How bad a row is by a rule: the measure that the rule compares with its threshold. Rows of other rules are alike.
BADNESS: Mapping[str, Badness] = {
    "structure: aspect": (["image_width", "image_height", "condition_width", "condition_height"], _aspect),
    "structure: size": (
        ["image_width", "condition_width"],
        lambda scores: abs(math.log(scores["image_width"] / scores["condition_width"])),
    ),
    "structure: truncated": _most("tokens"),
    "condition: range": _least("high"),
    "condition: flat-depth": _least("spread"),
    "condition: grey-levels": _most("grey_levels"),
    "condition: was-binary": _most("grey_levels"),
    "condition: mixed-colours": _most("mixed"),
    "alignment: shifted": (["shift_x", "shift_y"], lambda scores: math.hypot(scores["shift_x"], scores["shift_y"])),
    "alignment: scaled": (["scale"], lambda scores: abs(scores["scale"] - 1)),
    "alignment: other-picture": _least("here"),
    "curation: blurred": _least("sharpness"),
    "curation: upscaled": _least("held"),
    "curation: dark": _least("light"),
    "curation: light": _most("dark"),
    "curation: flat": _least("range"),
    "curation: extreme-aspect": _most("aspect"),
    "curation: jpeg-damage": _most("blocks"),
    "curation: bars": _most("bars"),
}


def label(finding: Finding) -> str:
    """A rule as the page names it: "condition: kind"."""
    return f"{finding.check}: {finding.rule}"


def worst_first(findings: Sequence[Finding], scores: Path) -> dict[str, list[int]]:
    """rule -> its rows, the worst first; the rules with errors first, then those with the most rows.

    Of a rule without a measure, rows with more and graver other findings come first.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    severity: dict[str, int] = {}
    weight: Counter[int] = Counter()
    for finding in findings:
        if finding.row is not None:
            rows[label(finding)].append(finding.row)
            severity[label(finding)] = SEVERITIES.index(finding.severity)
            weight[finding.row] += 10 ** SEVERITIES.index(finding.severity)
    measured = _measured({rule: set(of_rule) for rule, of_rule in rows.items() if rule in BADNESS}, scores)
    for rule, of_rule in rows.items():
        badness = measured.get(rule, {})
        of_rule.sort(key=lambda row: (-badness.get(row, 0.0), -weight[row], row))
    return dict(sorted(rows.items(), key=lambda item: (-severity[item[0]], -len(item[1]))))


def _measured(rows: Mapping[str, set[int]], scores: Path) -> dict[str, dict[int, float]]:
    """rule -> row -> how bad, in one pass over the scores."""
    found: dict[str, dict[int, float]] = {rule: {} for rule in rows}
    with pq.ParquetFile(scores) as file:
        known = set(file.schema_arrow.names)
        rules = [rule for rule in rows if known.issuperset(BADNESS[rule][0])]
        columns = list(dict.fromkeys(chain(["row"], *(BADNESS[rule][0] for rule in rules))))
        for batch in file.iter_batches(columns=columns) if rules else ():
            for one in batch.to_pylist():
                for rule in rules:
                    if one["row"] in rows[rule]:
                        found[rule][one["row"]] = BADNESS[rule][1](one)
    return found


def choose_rows(worst: Mapping[str, Sequence[int]], rows: int, most: int, seed: int) -> list[int]:
    """At most `most` of `rows` row numbers, the first ones the most wanted: the worst row of every rule, the second
    worst of every rule, ..., and then rows without findings, drawn at random."""
    turns = (row for turn in zip_longest(*worst.values()) for row in turn if row is not None)
    bad = set(chain.from_iterable(worst.values()))
    clean = list(_sample(bad, rows, most, seed))
    found = list(dict.fromkeys(turns))[: max(int(most * FOUND), most - len(clean))]
    return found + clean[: most - len(found)]


def _sample(but: set[int], rows: int, most: int, seed: int) -> Iterator[int]:
    """At most `most` numbers below `rows`, drawn at random, without those in `but`."""
    if rows - len(but) <= most:
        yield from (row for row in range(rows) if row not in but)
        return
    draw, seen = random.Random(seed), set(but)
    while len(seen) - len(but) < most:
        if (row := draw.randrange(rows)) not in seen:
            seen.add(row)
            yield row
