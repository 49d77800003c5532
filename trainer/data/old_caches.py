"""Caches that an earlier version has filled: never used, named to the user, and removed only where the space is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from condprep.runtime.own import remove_tree
from trainer.data.cache import stored_bytes
from trainer.errors import readable_bytes

VERSIONS = {"latents": 3, "text": 2}  # of how rows become what is cached; each folder's name has it


def cache_name(kind: str) -> str:
    """With which the name of a folder begins: "latents-v3"."""
    return f"{kind}-v{VERSIONS[kind]}"


def outdated(folder: Path) -> list[Path]:
    """The folders of other versions, oldest first."""
    found = [
        path
        for kind in VERSIONS
        for path in folder.glob(f"{kind}-*")
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(f"{cache_name(kind)}-")
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def outdated_notes(folder: Path) -> list[str]:
    """What is to be said of them, if there are any."""
    old = outdated(folder)
    if not old:
        return []
    size, names = readable_bytes(sum(map(stored_bytes, old))), ", ".join(path.name for path in old)
    return [
        f"{folder} holds {size} of other versions of the trainer, which are not used and go when space is needed: {names}"
    ]


def make_room(folder: Path, wanted: int) -> int:
    """Remove folders of other versions until the disk has that many bytes free, or there are none. Returns what is free."""
    for path in outdated(folder):
        if shutil.disk_usage(folder).free >= wanted:
            break
        remove_tree(path, ignore_errors=True)
    return shutil.disk_usage(folder).free
