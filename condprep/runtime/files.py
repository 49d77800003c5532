"""Files that are either complete or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def commit(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a partial file; the final name exists only once its content is complete and on disk."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)


def commit_text(path: Path, text: str) -> None:
    commit(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def commit_json(path: Path, value: Any) -> None:
    """Sorted, indented, so that equal values are equal bytes."""
    commit_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fsync(path: Path) -> None:
    """A file's content, or a folder's names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
