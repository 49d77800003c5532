"""What deals with a finding of `condprep verify`: the command, with its dataset filled in, or what has to be done by hand."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from condprep.curation.drops import ALL, DROPS
from condprep.curation.repairs import REPAIRS
from condprep.curation.rows import Records
from condprep.dataset.layout import Layout
from condprep.dataset.reader import shards
from condprep.errors import CondprepError

# (check, rule) of which no row is left out by any name of `--drop`: what deals with it, DATASET and NEW filled in
OTHERS = {
    ("structure", "grid"): "condprep build {dataset} --out {new} --fit bucket",
    ("structure", "mode"): "condprep build {dataset} --out {new}",
    ("structure", "bits"): "condprep build {dataset} --out {new}",
    ("structure", "garbled"): "mend the captions where the pictures come from, then build anew",
    ("structure", "truncated"): "python -m trainer RECIPE --set text.max_tokens=150",
    ("structure", "duplicate-key"): "condprep curate {dataset} --out {new} --drop duplicates",
    ("curation", "repeated-caption"): "caption the pictures one by one where they come from, then build anew",
    ("curation", "boilerplate"): "take the repeated words out of the captions where they come from, then build anew",
}


def remedy(check: str, rule: str, dataset: str) -> str:
    """What deals with the findings of a rule in this dataset, as a command where there is one.

    Maps of which it is known what made them are made again, other rows are left out. Pairs that are not in Arrow or Parquet
    files on this disk are imported first, which already rejects what is wrong with their structure or their maps.
    """
    place = {"dataset": shlex.quote(dataset), "new": shlex.quote(f"{dataset.rstrip('/') or '.'}-mended")}
    if (check, rule) in OTHERS:
        return OTHERS[check, rule].format(**place)
    root = Path(dataset)
    how = "--fix" if repairs(check, rule, Records(Layout(root)).annotated) else f"--drop {drop_of(check, rule)}"
    if _stored(root):
        return "condprep curate {dataset} --out {new} ".format(**place) + how
    imported = "condprep build {dataset} --out {new}".format(**place)
    if check in ("structure", "condition"):
        return imported
    return f"{imported}, then condprep curate {place['new']} --out {place['new']}-2 {how}"


def drop_of(check: str, rule: str) -> str | None:
    """The first name of `--drop` that leaves out what breaks a rule."""
    return next((name for name, rules in DROPS.items() if {(check, rule), (check, ALL)} & set(rules)), None)


def repairs(check: str, rule: str, annotated: bool) -> bool:
    """Whether `--fix` answers a rule."""
    answered = {one for rules in REPAIRS.values() for one in rules}
    return annotated and bool({(check, rule), (check, ALL)} & answered)


def _stored(dataset: Path) -> bool:
    """Whether its rows are in Arrow or Parquet files on this disk, which can be copied as they are."""
    if dataset.is_file():
        return dataset.suffix in (".arrow", ".parquet")
    with suppress(CondprepError):
        return bool(shards(dataset))
    return False
