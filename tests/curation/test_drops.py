"""What can be dropped: of each group of repeats one row stays, and every name stands for rules that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.docs import DOCS, section, tables, ticked
from support.thorough import share

from condprep.curation.drops import ALL, DROPS, KEEP, decide
from condprep.curation.remedies import OTHERS, remedy
from condprep.curation.repairs import REPAIRS, repair_of
from condprep.verification.findings import Finding
from condprep.verification.groups import groups


@st.composite
def star_findings(draw: st.DrawFn) -> list[Finding]:
    """Findings of 20 rows: repeats of earlier rows, and other faults."""
    found = []
    for row in range(1, 20):
        if (twin := draw(st.none() | st.integers(0, row - 1))) is not None:
            rule = draw(st.sampled_from(["duplicate", "near-duplicate"]))
            found.append(Finding(row, "", "curation", rule, "warning", "", twin))
    blurred = draw(st.sets(st.integers(0, 19)))
    return [*found, *(Finding(row, "", "curation", "blurred", "warning", "soft") for row in blurred)]


@settings(max_examples=share(100), deadline=None)
@given(
    findings=star_findings(),
    keep=st.sampled_from(KEEP),
    names=st.permutations(["near-duplicates", "blurry"]),
    mended=st.sets(st.integers(0, 19)),
)
def test_a_group_keeps_exactly_one(
    tmp_path_factory: pytest.TempPathFactory, findings: list[Finding], keep: Any, names: list[str], mended: set[int]
) -> None:
    """Of rows that are linked by repeats one stays, or none where all have the other fault; no row goes without a reason.

    It is one of the first split that has such rows, and none whose repair may fail where another of that split is left.
    """
    scores = tmp_path_factory.getbasetemp() / "scores.parquet"
    if not scores.exists():
        sizes = {"image_width": [64 + n % 3 for n in range(20)], "image_height": [64] * 20, "sharpness": [0.5] * 20}
        pq.write_table(pa.table(sizes | {"split": ["train"] * 12 + ["validation"] * 8}), scores)
    drops = decide(findings, names, keep, scores, mended)
    root = list(range(20))
    for one in findings:
        if one.twin is not None and one.row is not None:
            root[one.row] = root[one.twin]
    blurred = {one.row for one in findings if one.rule == "blurred"}
    for group in {n: [row for row in range(20) if root[row] == n] for n in root}.values():
        left = [row for row in group if row not in drops]
        assert len(left) == (0 if set(group) <= blurred else 1)
        could = sorted((row >= 12, row in mended, row) for row in group if row not in blurred)
        assert all((row >= 12, row in mended) == could[0][:2] for row in left)
        if keep == "first" and left:
            assert left[0] == could[0][2]
    assert blurred <= drops.keys()
    assert all(drop.reason and drop.name in names for drop in drops.values())


def test_every_name_means_rules_that_there_are() -> None:
    """What can be dropped or repaired is a rule of a check; every rule of curation about single rows can be dropped."""
    rules = {(group.name, rule.name) for group in groups() for rule in (*group.checks, *group.fresh_surveys())}
    checks = {check for check, _ in rules}
    for named in (*DROPS.values(), *REPAIRS.values()):
        assert all((check in checks) if rule == ALL else ((check, rule) in rules) for check, rule in named)
    about_datasets = {("curation", "repeated-caption"), ("curation", "boilerplate")}
    dropped = {rule for named in DROPS.values() for rule in named}
    assert {rule for rule in rules if rule[0] == "curation"} - about_datasets <= dropped
    assert repair_of(Finding(1, "", "alignment", "shifted", "error", ""), annotated=False) is None


def test_the_names_are_documented() -> None:
    """docs/curate.md has every name with the rules that it stands for."""
    rows = tables(section(DOCS / "curate.md", "## What can be dropped"))[0]
    documented = {ticked(name)[0]: ticked(rules) for name, rules, _ in rows}
    assert documented == {
        name: [check if rule == ALL else rule for check, rule in rules] for name, rules in DROPS.items()
    }


def test_every_rule_has_something_that_deals_with_it(tmp_path: Path) -> None:
    """What `verify` says of each rule is a name of --drop, a repair, or a sentence; a command names this dataset."""
    rules = [(group.name, one.name) for group in groups() for one in (*group.checks, *group.fresh_surveys())]
    for check, rule in rules:
        said = remedy(check, rule, str(tmp_path))
        assert "None" not in said
        assert (f" {tmp_path} --out {tmp_path}-mended" in said) == said.startswith("condprep ")
    assert set(OTHERS) <= set(rules)


def test_maps_are_made_again_where_it_is_known_what_made_them(tmp_path: Path) -> None:
    """A dataset of condprep is repaired, any other table loses those rows, loose files are imported first."""
    place = tmp_path / "a ds"
    place.mkdir()
    imported = remedy("alignment", "shifted", str(place))
    assert (
        imported
        == f"condprep build '{place}' --out '{place}-mended', then condprep curate '{place}-mended' --out '{place}-mended'-2 --drop misaligned"
    )
    pq.write_table(pa.table({"a": [1]}), place / "train.parquet")
    assert (
        remedy("alignment", "shifted", str(place))
        == f"condprep curate '{place}' --out '{place}-mended' --drop misaligned"
    )
    (place / ".condprep").mkdir()
    made = {"column": "canny", "annotator": "canny", "variant": ""}
    counts = {"rows": {}, "rejects": {}}
    record = {"annotators": [made], "geometry": {"fit": "crop", "resolution": 64}, "counts": counts}
    (place / ".condprep" / "provenance.json").write_text(json.dumps(record))
    assert remedy("alignment", "shifted", str(place)).endswith(" --fix")
    assert remedy("curation", "dark", str(place)).endswith(" --drop dark")
