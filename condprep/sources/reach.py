"""Which files a source may reach: what a row, a listing or a link names is followed no further than that."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from condprep.errors import Rejected
from condprep.runtime.storage import Place, Remote
from condprep.sources.base import read_regular


@dataclass(frozen=True)
class Reach:
    """Below `root`; in the Hub's cache, where `root` is a snapshot of a repository in it; below the roots of `also`."""

    root: Place | None
    also: tuple[Path, ...] = ()  # what the user named with --follow-links, and caches that are the source's own

    def real(self, path: str) -> Place | None:
        """The real path of `path`, relative to the root, whether it exists or not; None if it leads out, links followed.

        Objects have no links: what a row names is a name below the root, or none.
        """
        if isinstance(self.root, Remote):
            inside = posixpath.normpath(path)
            return None if posixpath.isabs(inside) or inside.split("/")[0] == ".." else self.root / inside
        try:
            real = os.path.realpath(os.path.join(self.root or os.sep, path))
        except ValueError:  # a NUL in the path
            return None
        return Path(real) if any(Path(real).is_relative_to(root) for root in self._roots) else None

    def existing(self, path: str) -> Path | None:
        """The same, of a file of this machine that is there."""
        found = self.real(path)
        return found if isinstance(found, Path) and found.exists() else None

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        own = [self.root, *_blobs(self.root)] if isinstance(self.root, Path) else []
        return tuple(os.path.realpath(root) for root in [*own, *self.also])


def _blobs(root: Path) -> list[Path]:
    """The folder that the links of a snapshot lead to: `datasets--o--n/snapshots/REV/a.jpg` -> `datasets--o--n/blobs/HASH`."""
    places = [root.absolute(), Path(os.path.realpath(root))]
    snapshots = (folder for place in places for folder in place.parents if folder.name == "snapshots")
    return [blobs for folder in snapshots if (blobs := folder.parent / "blobs").is_dir()]


def stored_picture(stored: Any, reach: Reach, column: str) -> bytes:
    """The encoded picture in a value of a picture column: its bytes, or {"bytes", "path"}, the path within `reach`.

    Raises Rejected("read", reason), also for values of other types: `bytes(10**12)` would be a terabyte of zeros.
    """
    fields = stored if isinstance(stored, dict) else {"bytes": stored}
    data, path = fields.get("bytes"), fields.get("path")
    if isinstance(data, bytes):
        return data
    if data is not None or not isinstance(path, str | None):
        reason = f"{column!r} holds no picture but {data if data is not None else path!r:.80}"
        raise Rejected("read", reason, code="bad-value")
    if path is None:
        raise Rejected("read", f"there is no picture in {column!r}", code="no-picture")
    found = reach.real(path)
    if not found:
        reason = f"{column!r} is a path that is missing or outside of the dataset: {path!r:.200}"
        raise Rejected("read", f"{reason}; --follow-links names a folder that it may lie in", code="outside-source")
    return read_regular(found)
