"""Telling the kind of a source from its name and from what lies in the folder."""

from __future__ import annotations

import re
from pathlib import Path

from condprep.errors import SourceError
from condprep.runtime.storage import Place, Remote
from condprep.sources.base import Where, source_place
from condprep.sources.folder import walk
from condprep.sources.kinds import is_listing, is_metadata, is_parquet, is_picture, is_tar, is_zip, listing

_WORD = re.compile(r"train|val|dev|test")  # each word for a split holds one of them
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def recognise(where: Where, exclude: Place | None = None) -> str:
    """The kind of source, by name and by what lies in the folder. Raises SourceError where that is unclear."""
    place, path = source_place(where), str(where)
    if isinstance(place, Remote) and is_tar(path):
        return "webdataset"
    named = is_zip(place.name) or is_parquet(place.name) or is_listing(place.name)
    if not (isinstance(place, Remote) and named and place.is_file()) and place.is_dir():
        return _kind_of_folder(place, exclude)
    if is_tar(path):
        return "webdataset"
    if place.is_file():
        if is_zip(place.name):
            return "zip"
        if is_parquet(place.name):
            return "huggingface"
        if is_listing(place.name):
            return "imagefolder"
        raise SourceError(
            f"{path!r} is a file; give the folder that it is in, a listing (.jsonl, .csv, ...), Parquet, a .tar or a .zip"
        )
    if (
        isinstance(place, Path) and HUB_NAME.fullmatch(path) and not place.parent.is_dir()
    ):  # else it is a slip in a path: do not ask the Hub
        return "huggingface"
    raise SourceError(f"there is no file or folder {path!r}")


def _kind_of_folder(folder: Place, exclude: Place | None) -> str:
    names = listing(folder)
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        return "huggingface"
    tests = {
        "metadata": is_metadata,
        "pictures": is_picture,
        "tars": is_tar,
        "Parquet files": is_parquet,
        "zips": is_zip,
    }
    found, holding = set[str](), set[str]()
    for below, files in walk(folder, exclude):
        of_folder = {kind for kind, test in tests.items() if any(map(test, files))}
        found |= of_folder
        holding |= {below} if "pictures" in of_folder else set()
    rows = next((kind for kind in ("tars", "Parquet files") if kind in found), None)
    if rows and "pictures" in found and "metadata" not in found:
        kind = "webdataset" if rows == "tars" else "huggingface"
        raise SourceError(f"{str(folder)!r} holds pictures and {rows}; choose with --source-kind folder or {kind}")
    if rows and "pictures" not in found:
        return "webdataset" if rows == "tars" else "huggingface"
    if "zips" in found and "pictures" not in found:
        return "zip"
    return "imagefolder" if "metadata" in found or _are_splits(holding) else "folder"


def _are_splits(folders: set[str]) -> bool:
    """Whether all pictures lie in folders that are splits, and of several: then some were put apart on purpose."""
    if not folders or not all(map(_WORD.search, folders)):
        return False
    from condprep.sources.splits import find_splits

    names = [f"{folder}picture.jpg" for folder in folders]
    splits = find_splits(Path(), names, {})
    return len(splits) > 1 and sum(map(len, splits.values())) >= len(names)
