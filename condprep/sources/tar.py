"""Listing a tar that nobody vouches for: bounded memory, no unpacking, and damage is reported where it begins."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path, PurePosixPath

from condprep.errors import Rejected, SourceError
from condprep.runtime.retry import as_fault, is_passing
from condprep.sources.base import is_tar, listing, portable, size_problem

SEPARATOR = "#"  # between the names of a tar and of its member: no name of a tar has one
MAX_TARS = 100_000  # what {00000..99999} may expand to
MAX_HEADER = 1 << 20  # bytes; an extended header holds one long name
_BRACES = re.compile(r"\{([^{}]*)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def find_tars(path: str) -> dict[str, Path]:
    """The tars of a folder, pattern or file, by a name that does not depend on where they lie. Raises SourceError."""
    if Path(path).is_dir():
        files = [os.path.join(path, name) for name in listing(Path(path)) if is_tar(name)]
    elif os.path.isfile(path):
        files = [path]
    else:
        patterns = list(islice(_braces(path), MAX_TARS + 1))
        if len(patterns) > MAX_TARS:
            raise SourceError(f"{path!r} stands for more than {MAX_TARS} tars")
        files = [file for one in patterns for file in (sorted(glob(one)) if has_magic(one) else [one])]
    if not files:
        raise SourceError(f"there are no tars at {path!r}")
    top = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    for file in files:
        if not os.path.isfile(file):
            raise SourceError(f"the tar {file!r} is missing")
        if not file.endswith(".tar"):
            raise SourceError(f"{file!r} is compressed, so pictures cannot be read in place: unpack it to a .tar first")
    return {portable(os.path.relpath(file, top), SEPARATOR): Path(file) for file in files}


def open_tar(path: Path) -> io.BufferedReader:
    """A tar for `members`. Raises SourceError for one that is compressed or cannot be opened."""
    try:
        file = _Capped(io.FileIO(path))
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


def _braces(pattern: str) -> Iterator[str]:
    """{000..012} and {a,b} as a shell expands them."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    before, after = pattern[: found.start()], pattern[found.end() :]
    for one in _alternatives(found[1]):
        yield from (f"{before}{one}{rest}" for rest in _braces(after))


def _alternatives(inside: str) -> Iterator[str]:
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = numbers.groups()
        yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    else:
        yield from inside.split(",")
