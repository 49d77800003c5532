"""A finished dataset at a URL becomes another one, at once: columns, rows or splits of it are others then.

What it will be is made in the working folder first, where a file of rows is a stand-in, which is renamed and keeps its content
(`remote.remember`). What is nowhere at the URL goes beside the dataset, and then comes

    URL/.condprep/exchange/...      records, and rows that were written anew
    URL/.condprep/exchange.json     which object is copied to which name, and which go then: that is the commit

and what it says is done by the store itself. Before the commit the dataset is as it was, without one object less. Of a run that
was stopped after it, whoever claims the dataset next does the rest; who only reads is told to wait for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from condprep.dataset.remote import MOVING, ROWS, is_inside, origin_of, stand_in, watch
from condprep.errors import DatasetError
from condprep.runtime.storage import Remote
from condprep.runtime.stores import Status
from condprep.runtime.upload import copy, put, remove, send

PRIVATE = ".condprep"
PLAN, LISTING, DONE, RETRY = (f"{PRIVATE}/{name}" for name in ("plan.json", "plan.parquet", "done.json", "retry.json"))
SPLITTING = f"{PRIVATE}/split.json"
LAST = ("dataset_dict.json", "README.md", DONE)  # of what is published, in this order
AT_ONCE = 16  # requests side by side
_NOTE, _FOLDER = f"{PRIVATE}/{MOVING}", f"{PRIVATE}/exchange"
_BESIDE = re.compile(r"\.condprep/(exchange|append|(into|split)(-[0-9a-f]+)?|shards)/.+")
_BEGUN = re.compile(r"\.condprep/[^/]+/\.condprep/(plan|split)\.json")


def commit(remote: Remote, root: Path, there: Mapping[str, Status]) -> None:
    """Make the dataset at the URL what it is in the working folder. there: what lies at the URL."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    wanted = {name: path for name, path in files.items() if _is_of_dataset(name)}
    origins = {name: origin_of(path) for name, path in wanted.items()}
    known = {name: origin.path.removeprefix(f"{remote.path}/") for name, origin in origins.items() if origin}
    copies = {name: old for name, old in known.items() if old != name}
    anew = [name for name, origin in origins.items() if origin is None]
    overwritten = {*copies, *anew}
    do_all(lambda name: send(wanted[name], remote / f"{_FOLDER}/{name}"), anew)
    kept = sorted(
        {old for old in copies.values() if old in overwritten}
    )  # else its content was gone, where this is repeated
    do_all(lambda old: copy(remote / old, remote / f"{_FOLDER}/kept/{old}"), kept)
    said = {name: f"{_FOLDER}/kept/{old}" if old in overwritten else old for name, old in copies.items()}
    said |= {name: f"{_FOLDER}/{name}" for name in anew}
    gone = [name for name in there if _was_of_dataset(name) and name not in wanted]
    put(remote / _NOTE, _note(said, gone))
    complete(remote)
    for name in anew:
        if name.endswith(ROWS):
            stand_in(wanted[name], (remote / name).status())
    watch(root, str(remote), remote)


def complete(remote: Remote) -> None:
    """Do what a commit says, where there is one. Every step can be repeated."""
    remote.forget()
    if not (remote / _NOTE).is_file():
        return
    copies, gone = _read(remote)
    do_all(lambda name: copy(remote / copies[name], remote / name), [name for name in copies if name not in LAST])
    for name in [name for name in LAST if name in copies]:
        copy(remote / copies[name], remote / name)
    put(remote / _NOTE, _note({}, gone))  # what is removed from here on was copied
    there = _names(remote)
    begun = [name for name in there if _BEGUN.fullmatch(name)]  # that was for the dataset as it was
    do_all(lambda name: remove(remote / name), [*gone, *begun])
    remove(remote / _NOTE)
    do_all(lambda name: remove(remote / name), [name for name in there if _BESIDE.fullmatch(name)])
    remote.forget()


def leftovers(there: Iterable[str]) -> list[str]:
    """What runs have left beside a finished dataset that is of no use: it is not what another one could go on with."""
    begun = {name.split("/")[1] for name in there if _BEGUN.fullmatch(name)}
    if RETRY in there:
        begun.add("shards")
    return [name for name in there if _BESIDE.fullmatch(name) and name.split("/")[1] not in begun]


def is_record(name: str) -> bool:
    """Whether it is one of the files beside the rows of a finished dataset, which are all fetched."""
    folder, _, file = name.rpartition("/")
    if folder in ("", PRIVATE):
        return name in LAST or folder == PRIVATE
    return folder in ("train", "validation", "test") and file in ("dataset_info.json", "state.json")


def discard(remote: Remote) -> None:
    """Take away what is built beside a dataset, the plan first."""
    remote.forget()
    names = _names(remote)
    for name in (PLAN, SPLITTING):
        remove(remote / name)
    do_all(lambda name: remove(remote / name), names)
    remote.forget()


def do_all(do: Callable[[Any], None], these: Sequence[Any]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(do, these):
            pass


def _is_of_dataset(name: str) -> bool:
    """Whether a file of the working folder belongs to the dataset, and not to its building."""
    return not name.endswith("lock") and name != RETRY and (not name.startswith(f"{PRIVATE}/") or name.count("/") == 1)


def _was_of_dataset(name: str) -> bool:
    """Whether an object is one that a working folder has."""
    return name == RETRY or (is_record(name) and not name.endswith("lock.json")) or _is_row(name)


def _is_row(name: str) -> bool:
    return name.endswith(ROWS) and name.split("/")[0] in ("train", "validation", "test", "data")


def _names(remote: Remote) -> list[str]:
    return [name for folder, names in remote.listing().items() for one in names if is_inside(name := folder + one)]


def _note(copies: Mapping[str, str], gone: Sequence[str]) -> bytes:
    return json.dumps({"copies": copies, "gone": gone}, indent=1, sort_keys=True).encode()


def _read(remote: Remote) -> tuple[dict[str, str], list[str]]:
    """Raises DatasetError where it is damaged."""
    try:
        said = json.loads((remote / _NOTE).read_bytes())
        copies, gone = {str(name): str(old) for name, old in said["copies"].items()}, list(map(str, said["gone"]))
        if not all(map(is_inside, [*copies, *copies.values(), *gone])):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(f"{remote / _NOTE} is damaged; start afresh with --overwrite") from None
    return copies, gone
