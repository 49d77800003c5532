"""Folders of ours: what we create, replace or remove in them is reached through no link.

A folder may come from elsewhere (a dataset that was downloaded, a run that was published) with links prepared where we
would write. So whoever begins to write looks through all that it takes for its own, and refuses by name what is neither
a file nor a folder. The path that a user gives is his own word: it may lead through links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from condprep.errors import UsageError
from condprep.runtime.own import claim


def check_utf8(path: str | os.PathLike[str]) -> None:
    """Raises UsageError for a path whose bytes are no UTF-8: Arrow opens none."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{os.fspath(path)!r} has letters that are no UTF-8, and Arrow opens no such file; rename it, or give another"
        ) from None


def check_suffix(path: Path, known: Collection[str], what: str) -> None:
    """Raises UsageError for the name of an output that says another kind of file: before anything is made for it."""
    if path.suffix.lower() not in known:
        raise UsageError(f"{path}: {what} is a {', '.join(known)} file; choose such a name")


def check_own(root: Path, names: Iterable[str], *, shallow: Iterable[str] = ()) -> None:
    """Raises UsageError where one of `names` in `root`, or anything below it, is a link, a pipe or a device; else `root` is
    ours from here on: links that are laid there later lead nowhere either.

    shallow: names below which others may keep what they like.
    """
    for name in names:
        for path in _all(root / name, deep=True):
            _check(path)
    for name in shallow:
        for path in _all(root / name, deep=False):
            _check(path)
    claim(root)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path, of something that need not be there yet, is that folder or below it, by whatever name both are called."""
    real = Path(os.path.realpath(path))
    return folder.is_dir() and any(one.exists() and one.samefile(folder) for one in (real, *real.parents))


def is_plain(name: object) -> bool:
    """Whether a recorded name is one of a file in a folder of ours: relative, in one folder or none, and no way out."""
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    parts = name.split("/")
    return len(parts) <= 2 and all(part not in ("", ".", "..") for part in parts)


def _all(path: Path, deep: bool) -> Iterator[Path]:
    """The path and what is below it, without following a link; nothing where there is nothing."""
    if not os.path.lexists(path):
        return
    yield path
    if deep and path.is_dir() and not path.is_symlink():
        try:
            with os.scandir(path) as found:
                items = [item.path for item in found]
        except FileNotFoundError:  # another part of the build has put it in its place
            return
        for item in items:
            yield from _all(Path(item), deep)


def _check(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # as above
        return
    if stat.S_ISLNK(mode):
        raise UsageError(
            f"{path} is a link, and nothing is written or removed through links; remove it (what it leads to stays)"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{path} is neither a file nor a folder; remove it")
