"""Telling the kind of a source from its name and from what lies in the folder."""

from __future__ import annotations

import re
from pathlib import Path

from condprep.errors import SourceError
from condprep.sources.base import is_metadata, is_picture, is_tar, listing, sub_listing

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def recognise(path: str) -> str:
    """The kind of source, by name and by what lies in the folder. Raises SourceError where that is unclear."""
    place = Path(path)
    if place.is_dir():
        return _kind_of_folder(place)
    if is_tar(path):
        return "webdataset"
    if place.is_file():
        if is_metadata(place.name):
            return "imagefolder"
        if place.suffix == ".parquet":
            return "huggingface"
        raise SourceError(f"{path!r} is a file; give the folder that it is in, a metadata file, Parquet or a .tar")
    if HUB_NAME.fullmatch(path) and not place.parent.is_dir():  # else it is a slip in a path: do not ask the Hub
        return "huggingface"
    raise SourceError(f"there is no file or folder {path!r}")


def _kind_of_folder(folder: Path) -> str:
    names = listing(folder)
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        return "huggingface"
    if any(map(is_metadata, names)):
        return "imagefolder"
    pictures = any(is_picture(name) for name in names)
    if any(map(is_tar, names)):
        found, kind = "tars", "webdataset"
    elif any(name.endswith(".parquet") for name in [*names, *sub_listing(folder / "data")]):
        found, kind = "Parquet files", "huggingface"
    else:
        splits = [name for name in names if sub_listing(folder / name)]
        described = splits and all(any(map(is_metadata, sub_listing(folder / name))) for name in splits)
        return "imagefolder" if described and not pictures else "folder"
    if pictures:
        raise SourceError(f"{str(folder)!r} holds pictures and {found}; choose with --source-kind folder or {kind}")
    return kind
