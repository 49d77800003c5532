"""What a source is, and the rules that every kind shares: what counts as a picture, how captions read, how much is read."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from condprep.errors import PassingFault, Rejected, SourceError
from condprep.runtime.retry import GOES_ON, as_fault, is_passing
from condprep.types import Entry, Sample

# the extensions that make a file an input
PICTURES = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "bmp", "tif", "tiff", "gif"})
CAPTION_COLUMNS = ("text", "caption")  # tried in this order where the user names no column
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # what makes a folder an imagefolder
MAX_FILE = 1 << 30  # bytes; a larger file or member is a problem entry, so that one input cannot exhaust memory
MAX_CAPTION = 1 << 16  # bytes of one caption file that are read; what follows is cut


class Source(Protocol):
    """A pile of encoded pictures with captions. Picklable, so that workers can read from it."""

    @property
    def kind(self) -> str:
        """ "folder", "imagefolder", "huggingface", "webdataset" or "pairs"."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must not change between a build and its resumption, as JSON: kind, options, digests. No absolute path."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every input, in an order that depends on nothing but the content. Reads no picture.

        An input that cannot be used is an entry with its `problem`, so that inputs = rows + rejects.
        """
        ...

    def read(self, entry: Entry) -> Sample:
        """The encoded picture and its captions. Thread-safe. Raises Rejected("read", reason)."""
        ...


def is_picture(name: str) -> bool:
    """Whether the extension makes a file an input. Its content is looked at only when it is decoded."""
    stem, _, extension = name.rpartition(".")
    return bool(stem) and extension.lower() in PICTURES


def is_metadata(name: str) -> bool:
    """Whether a file name is that of an imagefolder's listing."""
    return name in METADATA


def is_tar(name: str) -> bool:
    """Whether a file name is that of a tar, packed ones included: they are recognised to be refused with a reason."""
    return re.search(r"\.(tar|tgz|tar\.\w+)$", name) is not None


def listing(folder: Path) -> list[str]:
    """The names in a folder, sorted, hidden ones left out; none if there is no such folder. Raises SourceError."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if is_passing(error):
            raise as_fault(error, str(folder)) from error
        raise SourceError(f"the folder {str(folder)!r} cannot be listed: {error.strerror}") from None


def sub_listing(folder: Path) -> list[str]:
    """The same of a folder inside a source: one that nobody may read (lost+found) does not spoil the others."""
    with suppress(SourceError):
        return listing(folder)
    return []


def existing_folder(path: str) -> Path:
    """The folder at `path`. Raises SourceError if there is none."""
    if not Path(path).is_dir():
        raise SourceError(f"there is no folder {path!r}")
    return Path(path)


def captions(data: bytes) -> tuple[str, ...]:
    """One caption per non-empty line; UTF-8, bad bytes replaced, cut at MAX_CAPTION bytes."""
    return _clean(data[:MAX_CAPTION].decode("utf-8-sig", "replace").splitlines())


def caption_values(value: Any) -> tuple[str, ...]:
    """The captions in a metadata value: a string, a list of strings, or nothing. Raises Rejected("read", reason)."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        reason = f"the caption {value!r:.80} is neither a string nor a list of strings"
        raise Rejected("read", reason, code="bad-caption")
    return _clean(values)


def _clean(values: list[str]) -> tuple[str, ...]:
    """Stripped, not empty, not endless, and storable: JSON can spell half a surrogate pair, which is no text."""
    texts = (one[:MAX_CAPTION].replace("\0", "\ufffd").encode("utf-8", "replace").decode().strip() for one in values)
    return tuple(text for text in texts if text)


def read_regular(path: Path, *, cut: int | None = None) -> bytes:
    """The content of a regular file, or its first `cut` bytes. Raises Rejected("read", reason)."""
    try:
        # without O_NONBLOCK, opening a named pipe called photo.jpg would wait for ever
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if cut is None and (problem := file_problem(status)):
                raise problem
            return file.read(min(status.st_size, cut or MAX_FILE))  # Python takes memory for all that it is asked for
    except OSError as error:
        raise refused("read", f"{path.name!r} cannot be read", error) from None


def read_listed(path: Path, *, cut: int | None = None) -> bytes:
    """The same of a file that the source has listed. Raises PassingFault where more than the file is gone."""
    try:
        return read_regular(path, cut=cut)
    except Rejected:
        check_there(path.parent)
        raise


def check_there(place: Path) -> None:
    """Raises PassingFault where a folder or a file that holds many inputs was there, and is not any more."""
    if not place.exists():
        raise PassingFault(f"{place} is not there any more; put it back. {GOES_ON}")


def device_of(folder: Path) -> int:
    """On which device it lies, which tells whether something else is mounted there by now; -1 where that is unknown."""
    with suppress(OSError):
        return folder.stat().st_dev
    return -1


def stored_picture(stored: Any, folder: Path | None, column: str) -> bytes:
    """The encoded picture in a value of a picture column: its bytes, or {"bytes", "path"}, the path below `folder`.

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
    found = folder and within(folder, path)
    if not found:
        reason = f"{column!r} is a path that is missing or outside of the dataset: {path!r:.200}"
        raise Rejected("read", reason, code="outside-source")
    return read_regular(found)


def within(folder: Path, path: str) -> Path | None:
    """The real path of `path` in `folder`, whether it exists or not; None if it leads out, links followed."""
    try:
        real, root = os.path.realpath(folder / path), os.path.realpath(folder)
    except ValueError:  # a NUL in the path
        return None
    return Path(real) if Path(real).is_relative_to(root) else None


def file_problem(status: os.stat_result) -> Rejected | None:
    """Why a file cannot be an input, judged by its status alone."""
    if not stat.S_ISREG(status.st_mode):
        return Rejected("read", "not a regular file", code="not-a-file")
    return size_problem(status.st_size)


def size_problem(size: int) -> Rejected | None:
    """Why a file or member of so many bytes cannot be an input."""
    reason = f"{size} bytes > limit {MAX_FILE} bytes"
    return Rejected("read", reason, code="too-large-file") if size > MAX_FILE else None


def refused(stage: str, what: str, error: OSError) -> Rejected:
    """What the operating system refuses of one file, as a reject. what: "'1.jpg' cannot be read".

    Raises the error as it is where it may pass: then it is not the file's.
    """
    if is_passing(error):
        raise error
    code = "missing-file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable-file"
    return Rejected(stage, f"{what}: {error.strerror}", code=code)


def rejected_entry(name: str, why: Rejected, stamp: str = "", **known: Any) -> Entry:
    """An input that can only be a reject. known: further fields of the entry."""
    return Entry(name, stamp, problem=why.reason, code=why.code, **known)


def stamp(*files: Path | os.stat_result) -> str:
    """Size and mtime of the files ("-" for a missing one): changes when a content changed."""
    return " ".join(map(_stamp, files))


def _stamp(file: Path | os.stat_result) -> str:
    try:
        status = file.stat() if isinstance(file, Path) else file
    except OSError as error:
        if is_passing(error):
            raise
        return "-"
    return f"{status.st_size}:{status.st_mtime_ns}"


def portable(path: str, also: str = "") -> str:
    r"""A relative path as text that any encoder takes: bytes that are no UTF-8 become \xNN, a backslash is doubled.

    also: ASCII letters that become \xNN too, where they separate names.
    """
    escaped = path.replace("\\", "\\\\")
    for letter in also:
        escaped = escaped.replace(letter, f"\\x{ord(letter):02x}")
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_in(listing: Path, path: str) -> str:
    """The name of a picture that a listing names; never that of one of the listing's lines, `metadata.jsonl:3`."""
    return portable(path, ":") if path.startswith(f"{listing.name}:") else portable(path)


def native(name: str) -> str:
    """The path that `portable` was given."""
    return re.sub(r"\\(\\|x[0-9a-f]{2})", _unescape, name)


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return "\\" if code == "\\" else bytes([int(code[1:], 16)]).decode("utf-8", "surrogateescape")
