"""What a source is, and the rules that every kind shares: how much is read, what a name and a stamp are."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from condprep.errors import PassingFault, Rejected, SourceError
from condprep.runtime.retry import GOES_ON, is_passing
from condprep.runtime.storage import BLOCK, Place, Remote, place
from condprep.runtime.stores import Status
from condprep.types import Entry, Note, Sample

MAX_FILE = 1 << 30  # bytes; a larger file or member is a problem entry, so that one input cannot exhaust memory
CAPTION_COLUMNS = ("text", "caption")  # tried in this order where the user names no column


Where = str | Remote  # what the user said, or the place at a URL that it leads to: what was listed of it is kept there


class Source(Protocol):
    """A pile of encoded pictures with captions. Picklable, so that workers can read from it."""

    @property
    def kind(self) -> str:
        """ "folder", "imagefolder", "huggingface", "webdataset", "zip" or "pairs"."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must not change between a build and its resumption, as JSON: kind, options, digests. No absolute path."""
        ...

    def entries(self, note: Note = ...) -> Iterator[Entry]:
        """Every input, in an order that depends on nothing but the content. Reads no picture.

        An input that cannot be used is an entry with its `problem`, so that inputs = rows + rejects. note: is told what
        lies there and is no input, and what was not read as it stands.
        """
        ...

    def read(self, entry: Entry) -> Sample:
        """The encoded picture and its captions. Thread-safe. Raises Rejected("read", reason)."""
        ...


@runtime_checkable
class Sealed(Protocol):
    """A source whose inputs lie in a few files, tars or zips as it may be, or follow from its identity."""

    def seal(self) -> str:
        """The same as before only where all that `entries` gives is. Lists nothing."""
        ...


def seal_of(files: Mapping[str, Place]) -> str:
    """Of files: which they are, and when anything of them changed, which nobody can set as one can the time of their content;
    of objects their marks. It is that of these very files: a copy has another, and is listed."""
    digest = sha256()
    for name, file in files.items():
        if isinstance(file, Remote):
            state = str(file.status()) if file.is_file() else "-"
        else:
            status = file.stat()
            state = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        digest.update(f"{name!r} {state}\n".encode())
    return digest.hexdigest()


def unsaid(kind: str, name: str) -> None:
    """A Note for who has heard it before."""


def source_place(path: Where) -> Place:
    """Where a source lies. Raises SourceError for a bucket, or a repository on the Hub, that is not there."""
    if isinstance(path, Remote):
        return path
    found = place(path)
    try:
        return found.pinned() if isinstance(found, Remote) else found
    except FileNotFoundError:
        raise no_bucket(path) from None


def no_bucket(url: str) -> SourceError:
    return SourceError(
        f"there is no {'repository' if url.startswith('hf:') else 'bucket'} of {url!r}; look at its name"
    )


def read_regular(path: Place, *, cut: int | None = None, status: Status | None = None) -> bytes:
    """The content of a regular file or an object, or its first `cut` bytes. Raises Rejected("read", reason).

    status: of an object, as it was listed.
    """
    if isinstance(path, Remote):
        return _read_object(path, cut, status)
    try:
        # without O_NONBLOCK, opening a named pipe called photo.jpg would wait for ever
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if cut is None and (problem := file_problem(found)):
                raise problem
            return file.read(min(found.st_size, cut or MAX_FILE))  # Python takes memory for all that it is asked for
    except OSError as error:
        raise refused("read", f"{path.name!r} cannot be read", error) from None


def _read_object(remote: Remote, cut: int | None, status: Status | None) -> bytes:
    try:
        status = status or remote.status()
        if cut is None and (problem := size_problem(status.size)):
            raise problem
        return remote.read_bytes(status, cut)
    except FileNotFoundError as error:
        raise refused("read", f"{remote.name!r} cannot be read", error) from None


def read_listed(path: Place, *, cut: int | None = None, status: Status | None = None) -> bytes:
    """The same of a file that the source has listed. Raises PassingFault where more than the file is gone."""
    try:
        return read_regular(path, cut=cut, status=status)
    except Rejected:
        if isinstance(path, Path):
            check_there(path.parent)
        elif not path.has_bucket():
            raise gone(path) from None
        raise


def open_listed(path: Place, stamp: str, block: int = BLOCK) -> IO[bytes]:
    """A file or an object as it was listed, to be read in parts. Raises OSError."""
    return path.open("rb", block, Status.of(stamp)) if isinstance(path, Remote) else path.open("rb")


def check_as_listed(listed: str, *files: Path) -> None:
    """Raises SourceError where files of this machine, as `stamp` takes them, are not those that were listed."""
    if stamp(*files) != listed:
        raise SourceError(
            f"{files[0]}{' (or its captions)' * (len(files) > 1)} is another file than the one that was listed; put it back as it was to go on, "
            "or start afresh with --overwrite"
        )


def size_of(path: Place) -> int:
    """Bytes of a file or an object. Raises OSError."""
    return path.status().size if isinstance(path, Remote) else path.stat().st_size


def check_there(place: Place) -> None:
    """Raises PassingFault where a folder or a file that holds many inputs was there, and is not any more."""
    if not place.exists():
        raise gone(place)


def gone(place: Place) -> PassingFault:
    return PassingFault(f"{place} is not there any more; put it back. {GOES_ON}")


def device_of(folder: Place) -> int:
    """On which device it lies, which tells whether something else is mounted there by now; -1 where that is unknown."""
    if isinstance(folder, Remote):
        return -1
    with suppress(OSError):
        return folder.stat().st_dev
    return -1


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


def stamp(*files: Place | os.stat_result | Status) -> str:
    """Size and mtime of the files, or mark of the objects ("-" for a missing one): changes when a content changed."""
    return " ".join(map(_stamp, files))


def _stamp(file: Place | os.stat_result | Status) -> str:
    if isinstance(file, Status):
        return str(file)
    if isinstance(file, Remote):
        return str(file.status()) if file.is_file() else "-"
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
