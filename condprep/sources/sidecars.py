"""The file beside a picture that holds its captions: what it may be called, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import TypeVar

from condprep.runtime.storage import Remote
from condprep.sources.text import MAX_CAPTION, MAX_DESCRIPTION, Captions, read_captions, read_description

OF_STEM = (".txt", ".TXT", ".Txt", ".caption")  # a.txt of a.jpg
OF_NAME = ".txt"  # a.jpg.txt
DESCRIPTION = ".json"  # a.json
P = TypeVar("P", Path, Remote, Path | Remote)


def sidecar_names(picture: str) -> tuple[str, ...]:
    """What the file with a picture's captions may be called: the first that is there is read, and no other."""
    stem = os.path.splitext(picture)[0]
    return (*(stem + one for one in OF_STEM), picture + OF_NAME, stem + DESCRIPTION)


def is_sidecar_name(name: str) -> bool:
    """Whether a file would be one with captions, if a picture lies beside it."""
    return name.endswith((*OF_STEM, DESCRIPTION))


def is_sidecar(name: str, pictures: Container[str], stems: Container[str]) -> bool:
    """Whether a file is called as one with captions of those pictures, whose names without extension are `stems`."""
    stem, extension = os.path.splitext(name)
    return (extension in (*OF_STEM, DESCRIPTION) and stem in stems) or (extension == OF_NAME and stem in pictures)


def sidecar_places(picture: P) -> list[P]:
    """Where its captions may be, in the order of `sidecar_names`."""
    if isinstance(picture, Remote):
        return [picture.at(name) for name in sidecar_names(picture.path)]
    return [Path(name) for name in sidecar_names(os.fspath(picture))]


def find_sidecar(picture: P) -> P | None:
    """The file with its captions: a regular one, whatever else is called like it."""
    return next((found for found in sidecar_places(picture) if found.is_file()), None)


def read_sidecar(name: str, data: bytes, *, each_line: bool) -> Captions:
    """The captions in a file of that name. data: its first `sidecar_limit` bytes. Raises Rejected("read", reason)."""
    return read_description(data) if name.endswith(DESCRIPTION) else read_captions(data, each_line=each_line)


def sidecar_limit(name: str) -> int:
    """How many bytes of it are read: of JSON one more than are allowed, which tells that it is too large."""
    return MAX_DESCRIPTION + 1 if name.endswith(DESCRIPTION) else MAX_CAPTION
