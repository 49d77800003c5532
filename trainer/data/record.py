"""What was written into a cache: each file's size and checksums, so that a damaged one is noticed and made again.

A record lies beside the files of a shard and is written last: without it they are not complete. At each start their sizes
and a few of their blocks are compared, all their bytes only where that is asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from condprep.runtime.files import commit_json, read_json

BLOCKS, BLOCK = 16, 4096  # spread over a file, its beginning and its end among them


def write_record(record: Path, files: Sequence[Path]) -> None:
    """files: complete, in the record's folder."""
    commit_json(record, {path.name: _described(path) for path in files})


def recorded(record: Path) -> list[str]:
    """The names of the files of a sound record."""
    return list(_read(record))


def damage(record: Path, whole: bool) -> str | None:
    """What is wrong with the files, None where they are as they were written. whole: compare all of their bytes."""
    known = _read(record)
    if not known:
        return f"{record.name} is damaged"
    return next((found for name, was in known.items() if (found := _damage(record.with_name(name), was, whole))), None)


def _read(record: Path) -> dict[str, Any]:
    """{} for one that is not ours: it lies in a folder that may come from elsewhere."""
    try:
        known = read_json(record)
        return {str(name): dict(was) for name, was in known.items() if name == os.path.basename(name)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _damage(path: Path, was: dict[str, Any], whole: bool) -> str | None:
    try:
        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            return f"{path.name} is missing"
        if size != was.get("bytes"):
            return f"{path.name} has {size:,} bytes, and not those that were written"
        if _blocks(path, size) != was.get("blocks") or (whole and _sha256(path) != was.get("sha256")):
            return f"{path.name} has other bytes than were written"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def _described(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size, "blocks": _blocks(path, size), "sha256": _sha256(path)}


def _blocks(path: Path, size: int) -> str:
    """A checksum of a few blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(max(0, size - BLOCK) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
