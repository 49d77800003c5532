"""A source that has more by now than when its dataset was built: what of it may differ, and what has to be as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from condprep.building.paired_source import PairedSource
from condprep.building.plan import Plan, check_config
from condprep.dataset.pairs.files import ListedPairs
from condprep.dataset.pairs.table import TablePairs
from condprep.errors import DatasetError
from condprep.sources.base import Source
from condprep.sources.chosen import whole
from condprep.sources.tar import SEPARATOR
from condprep.sources.webdataset import WebDatasetSource
from condprep.types import Entry

# kind of source -> what of its identity tells all that it holds, and is another once it holds more
CONTENT = {"imagefolder": ("metadata", "sha256"), "webdataset": ("shards",), "zip": ("zips",)}
NUMBERED = "huggingface"  # rows are called by their numbers, and what tells them is one for all
BY_ITSELF = "build what is new by itself, and `condprep merge` both"


def check_requested(plan: Plan, requested: Mapping[str, Any]) -> None:
    """Raises DatasetError where a dataset was built with other settings, or its source cannot tell what is new."""
    kind = requested["source"]["kind"]
    content = ("fingerprint",) if kind == NUMBERED else CONTENT.get(kind, ())
    before = {"requested": _without(plan.config.get("requested"), content)}
    check_config(replace(plan, config=before), {"requested": _without(requested, content)})
    if kind == NUMBERED and plan.config["requested"]["source"].get("fingerprint") != requested["source"]["fingerprint"]:
        raise DatasetError(
            f"the source of {plan.folder.parent} has other content than when it was built, and which of its rows are new cannot be "
            f"told, since they are called by their numbers; {BY_ITSELF}, or build all of it to another --out"
        )


def has_grown(plan: Plan, requested: Mapping[str, Any]) -> bool:
    """Whether nothing differs but what the source holds, of one that knows its inputs by name."""
    before, content = plan.config.get("requested"), CONTENT.get(requested["source"]["kind"], ())
    return before != requested and _without(before, content) == _without(requested, content)


def _without(requested: Any, content: Collection[str]) -> Any:
    """What was requested, without what tells the content of the source."""
    if not isinstance(requested, Mapping) or not isinstance(source := requested.get("source"), Mapping):
        return requested
    return {**requested, "source": {name: value for name, value in source.items() if name not in content}}


def another_row(source: Source) -> Callable[[Entry, Entry], bool]:
    """Whether an input that changed may be another row under a name that was given before: rows are called by their number."""
    pairs = found.pairs if isinstance(found := whole(source), PairedSource) else None
    if isinstance(pairs, TablePairs):
        return lambda known, now: known != now
    if isinstance(pairs, ListedPairs):  # which numbers the rows of a picture
        return lambda known, now: known.condition != now.condition
    return lambda known, now: False


def check_names(source: Source, known: Collection[str], others: Collection[str]) -> None:
    """Raises DatasetError where an input has another's name by now: what is new would be lost, or what is there be added again.

    known: the names that the dataset has. others: those of them that are `another_row`.
    """
    if others:
        raise DatasetError(
            f"{min(others)!r} is another row than the one that the dataset has by this name: rows are called by their number. Put what is "
            f"new behind those that are there (in a file whose name comes last, or at the listing's end), {BY_ITSELF}, or give --replace"
        )
    if not isinstance(found := whole(source), WebDatasetSource):
        return
    before = {name.partition(SEPARATOR)[0] for name in known}
    gone, new = before - found.tars.keys(), found.tars.keys() - before
    moved = gone.intersection(end for name in new for end in _ends(name))
    moved |= {name for name in gone if new.intersection(_ends(name))}
    if moved:
        # they are called by where they lie below the folder that holds all of them
        raise DatasetError(
            f"the tar {min(moved)!r} is called otherwise by now, since tars are called by where they lie below the folder that "
            f"holds all of them, and its rows would be there twice; {BY_ITSELF}"
        )


def _ends(name: str) -> Iterator[str]:
    """ "a/b/c.tar" -> "b/c.tar", "c.tar"."""
    while name := name.partition("/")[2]:
        yield name
