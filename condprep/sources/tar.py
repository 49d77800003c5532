"""Listing a tar that nobody vouches for: bounded memory, no unpacking, and damage is reported where it begins."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob, has_magic
from itertools import islice
from pathlib import Path, PurePosixPath

from braceexpand import braceexpand

from condprep.errors import Rejected, SourceError
from condprep.runtime.retry import as_fault, is_passing
from condprep.runtime.storage import BLOCK, Place, RangeFile, Remote
from condprep.sources.base import Where, portable, size_problem, source_place
from condprep.sources.folder import walk
from condprep.sources.kinds import is_tar
from condprep.sources.splits import choose_split, find_splits, read_config

SEPARATOR = "#"  # between the names of a tar and of its member: no name of a tar has one
MAX_TARS = 100_000  # what {00000..99999} may expand to
MAX_HEADER = 1 << 20  # bytes; an extended header holds one long name
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def find_tars(where: Where, split: str | None = None, config: str | None = None) -> dict[str, Place]:
    """The tars of a folder, pattern or file, by a name that does not depend on where they lie. Raises SourceError.

    Of a folder with several splits, as `datasets` tells them, those of one.
    """
    one, path = source_place(where), str(where)
    if not (isinstance(one, Remote) and is_tar(path)) and one.is_dir():
        files = [one / name for name in _tars_of_split(one, split, config)]
    elif split is not None or config is not None:
        raise SourceError(f"--split and --config mean nothing for the tars {path!r}: they are all read")
    elif isinstance(one, Remote):
        files = _remote_tars(one)
    else:
        files = [one] if one.is_file() else [Path(file) for file in expanded(path)]
    if not files:
        raise SourceError(f"there are no tars at {path!r}")
    places = [file.path if isinstance(file, Remote) else os.path.abspath(file) for file in files]
    top = os.path.commonpath([os.path.dirname(path) for path in places])
    for file in files:
        if not file.is_file():
            raise SourceError(f"the tar {str(file)!r} is missing")
        if not file.name.lower().endswith(".tar"):
            raise SourceError(
                f"{str(file)!r} is compressed, so pictures cannot be read in place: unpack it to a .tar first"
            )
    return {portable(os.path.relpath(path, top), SEPARATOR): file for path, file in zip(places, files)}


def _remote_tars(pattern: Remote) -> list[Place]:
    """Those of a pattern; of several, their folders are listed, which is a request for a thousand of them."""
    found: list[Place] = []
    for path in _in_braces(pattern.path):
        folder = pattern.at(path[: re.match(r"[^*?[]*", path).end()].rpartition("/")[0])  # type: ignore[union-attr]
        if path != pattern.path or has_magic(path):
            folder.listing()
        if not has_magic(path):
            found.append(pattern.at(path))
            continue
        names = sorted(below + name for below, of_folder in folder.listing().items() for name in of_folder)
        wanted = path.removeprefix(f"{folder.path}/").split("/")
        found += [folder / name for name in names if _fits(name.split("/"), wanted)]
    return found


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """As glob has it: a wildcard stands for no slash, and for no dot at the beginning."""
    return len(parts) == len(pattern) and all(
        fnmatchcase(part, one) and (part[:1] != "." or one[:1] == ".") for part, one in zip(parts, pattern)
    )


def _tars_of_split(root: Place, split: str | None, config: str | None) -> list[str]:
    names = sorted(folder + name for folder, names in walk(root) for name in names if is_tar(name))
    if not names:
        return []
    splits = find_splits(root, names, read_config(root, config))
    return splits[choose_split(splits, split, repr(str(root)))]


def expanded(pattern: str) -> list[str]:
    """Braces as webdataset expands them, then wildcards."""
    return [file for one in _in_braces(pattern) for file in (sorted(glob(one)) if has_magic(one) else [one])]


def _in_braces(pattern: str) -> list[str]:
    few = all(abs(int(last) - int(first)) < MAX_TARS for first, last in _RANGE.findall(pattern))
    try:
        patterns = list(islice(braceexpand(pattern), MAX_TARS + 1)) if few else []
    except ValueError:  # unbalanced
        patterns = [pattern]
    if not few or len(patterns) > MAX_TARS:
        raise SourceError(f"{pattern!r} stands for more than {MAX_TARS} tars")
    return patterns


def open_tar(path: Place) -> io.BufferedReader:
    """A tar for `members`. Raises SourceError for one that is compressed or cannot be opened."""
    try:
        file = _Capped(RangeFile(path, path.status()), BLOCK) if isinstance(path, Remote) else _Capped(io.FileIO(path))
    except OSError as error:
        if is_passing(error):
            raise as_fault(error, path.name) from error
        raise SourceError(f"the tar {path.name!r} cannot be opened: {error.strerror}") from None
    if packed := _COMPRESSED.get(file.peek(2)[:2]):
        file.close()
        raise SourceError(
            f"{path.name!r} is compressed ({packed}), so pictures cannot be read in place: unpack it first"
        )
    return file


def members(file: io.BufferedReader) -> Iterator[tarfile.TarInfo | str]:
    """Every member; last, if the tar is damaged, how. `file` may be moved between two of them."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                if tar.offset <= end:  # older Pythons believe a negative size
                    raise tarfile.ReadError("a header that points back")
                end = tar.offset
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"it ends inside of {member.name!r}")
                yield member
                tar.members.clear()  # type: ignore[attr-defined]  # or the whole listing stays in memory
            end = tar.offset
    except Exception as error:  # tarfile lets through whatever its parsing of a hostile header raises
        if is_passing(error):
            raise as_fault(error, getattr(file.raw, "name", "")) from error
        yield f"damaged after byte {end}: {error}"
        return
    file.seek(end)
    if (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        yield f"damaged after byte {end}: {'no header' if block else 'it ends without an end marker'}"


def member_problem(member: tarfile.TarInfo) -> Rejected | None:
    """Why a member cannot be an input, whatever its content."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return Rejected("source", "its name leaves the tar", code="outside-source")
    if not member.isreg() or member.issparse():
        return Rejected("source", "a link, device or sparse file", code="not-a-file")
    return size_problem(member.size)


class _Capped(io.BufferedReader):
    """Refuses to read more at once than a header takes: tarfile believes a header that claims to be 10 GB long."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)
