"""The inputs that did not become rows, with their pictures where the source is at hand."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condprep.building.inputs import open_inputs
from condprep.dataset.inspect import reject_code, reject_lines
from condprep.errors import CondprepError, SourceError
from condprep.reporting.thumbnails import Thumbnail, thumbnail
from condprep.runtime.files import read_json
from condprep.sources.base import Source
from condprep.types import Entry

OF_A_CODE, MOST = 12, 60  # rejects that are shown


@dataclass(frozen=True)
class ShownReject:
    """One input that did not become a row."""

    source: str
    reason: str
    picture: Thumbnail


@dataclass(frozen=True)
class Rejects:
    """All rejects, counted, and some of them."""

    codes: Mapping[str, int]  # code -> inputs, most frequent first
    shown: Sequence[ShownReject]
    note: str  # why there are no pictures, or ""

    @property
    def total(self) -> int:
        return sum(self.codes.values())


def rejects(dataset: Path, source: str | None, pool: Executor) -> Rejects | None:
    """What `.condprep/rejects.jsonl` lists; None where there is no such list. source: what the dataset was built from."""
    listed = dataset / ".condprep" / "rejects.jsonl"
    if not listed.is_file():
        return None
    codes, shown = _read(listed)
    picture, note = _pictures(dataset, source, {one["source"] for one in shown}) if shown else (_none, "")
    thumbnails = pool.map(picture, [one["source"] for one in shown])
    found = [ShownReject(one["source"], one["reason"], small) for one, small in zip(shown, thumbnails)]
    return Rejects(dict(codes.most_common()), found, note)


def _read(listed: Path) -> tuple[Counter[str], list[dict[str, str]]]:
    """Counts by code, and the first rejects of each."""
    codes: Counter[str] = Counter()
    first: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in reject_lines(listed):
        code = reject_code(line)
        codes[code] += 1
        if codes[code] <= OF_A_CODE and (one := _reject(line)):
            first[code].append(one)
    return codes, [one for _, of_code in sorted(first.items()) for one in of_code][:MOST]


def _reject(line: str) -> dict[str, str] | None:
    try:
        found: dict[str, Any] = json.loads(line)
        return {"source": str(found["source"]), "reason": f"{found['stage']}: {found['reason']}"}
    except (ValueError, KeyError, TypeError):
        return None


def _pictures(dataset: Path, source: str | None, names: set[str]) -> tuple[Callable[[str], Thumbnail], str]:
    """How to get the picture of a reject, and why that cannot be."""
    if source is None:
        return (
            _none,
            "Their pictures are not in the dataset; with --source, the report reads them from where they were.",
        )
    try:
        # whatever the dataset became since
        opened = _open(source, read_json(dataset / ".condprep" / "provenance.json")["source"])
        entries = {entry.name: entry for entry in opened.entries() if entry.name in names}
    except (CondprepError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _none, f"Their pictures cannot be shown: {error}."
    return lambda name: _picture(opened, entries.get(name)), ""


def _open(source: str, identity: Mapping[str, Any]) -> Source:
    """The source with the options that the build had. Raises SourceError where it is another one."""
    columns: dict[str, Any] = {
        f"{role}_column": identity.get(f"{role}_column") or identity.get(role)
        for role in ("image", "condition", "caption")
    }
    split = identity.get("split") or next(iter(identity.get("splits", [])), None)  # the latter of pairs
    opened = open_inputs(source, identity["kind"], split=split, config=identity.get("config"), **columns)
    if opened.identity != identity:
        raise SourceError(f"{source!r} is not what the dataset was built from")
    return opened


def _picture(source: Source, entry: Entry | None) -> Thumbnail:
    if entry is None or entry.problem:
        return Thumbnail(problem=(entry and entry.problem) or "not in the source any more")
    try:
        return thumbnail(source.read(entry).data, 160)
    except (CondprepError, OSError, MemoryError) as error:
        return Thumbnail(problem=str(error))


def _none(name: str) -> Thumbnail:
    return Thumbnail(problem="no picture")
