"""Listing and reading a zip that nobody vouches for: bounded memory, nothing unpacked to disk, names never used as paths."""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from condprep.errors import Rejected, SourceError
from condprep.runtime.retry import as_fault, is_passing
from condprep.runtime.storage import Place
from condprep.sources.base import check_there, open_listed, refused, size_problem

MAX_RATIO, FREE = 200, 64 << 20  # a member larger than that may not be packed tighter than 1 : MAX_RATIO
DIRECTORY = 1 << 20  # bytes of it that are read at once
_HEADER = 1024  # bytes before those of a member: its name is long where that is not enough
_TAIL = (1 << 16) + 22  # bytes at the end in which the directory is announced: a comment and the record
_END, _END64, _LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_STORED, _DEFLATED = 0, 8
_ENTRY = struct.Struct("<4s4xHH4xIIIHHHxxxxII")  # of the directory
_LOCAL = struct.Struct("<4s2xHH4xIIIHH")  # before the bytes of a member


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a zip."""

    name: str
    offset: int  # of its header
    size: int  # unpacked
    problem: Rejected | None  # why it cannot be an input


def members(path: Place) -> Iterator[Member | str]:
    """Every file, in the directory's order; last, if the directory is damaged, how. Raises SourceError for what is no zip."""
    try:
        with path.open("rb", DIRECTORY) as file:
            start, size, shift = _directory(file, path.name)
            file.seek(start)
            end = start + size
            while file.tell() < end:
                member = _member(file, shift)
                if isinstance(member, str):
                    yield member
                    return
                if not member.name.endswith("/"):
                    yield member
    except OSError as error:
        if is_passing(error):
            raise as_fault(error, path.name) from error
        raise SourceError(f"the zip {path.name!r} cannot be read: {error.strerror}") from None


def read_member(path: Place, stamp: str, offset: int, size: int) -> bytes:
    """The unpacked bytes of a member; stamp: of the zip, as it was listed.

    Raises Rejected("read", reason), also where it is damaged.
    """
    try:
        with open_listed(path, stamp, min(size + _HEADER, DIRECTORY)) as file:
            file.seek(offset)
            header = file.read(_LOCAL.size)
            if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
                raise Rejected("read", f"{path.name!r} is not what it was when it was listed", code="cut-off")
            _, flags, method, checksum, _, _, name, extra = _LOCAL.unpack(header)
            file.seek(name + extra, io.SEEK_CUR)
            data = _unpacked(file, size) if method == _DEFLATED else file.read(size)
    except OSError as error:
        check_there(path)
        raise refused("read", f"{path.name!r} cannot be read", error) from None
    except zlib.error as error:
        raise Rejected("read", f"damaged in {path.name!r}: {error}", code="damaged-source") from None
    if len(data) != size or (not flags & 8 and zlib.crc32(data) != checksum):
        raise Rejected("read", f"damaged in {path.name!r}: not the bytes that were packed", code="damaged-source")
    return data


def _unpacked(file: IO[bytes], size: int) -> bytes:
    """At most one byte more than `size`, whatever is packed there."""
    unpack, found = zlib.decompressobj(-15), bytearray()
    while len(found) <= size and not unpack.eof and (chunk := unpack.unconsumed_tail or file.read(1 << 16)):
        found += unpack.decompress(chunk, size + 1 - len(found))
    return bytes(found)


def _directory(file: IO[bytes], name: str) -> tuple[int, int, int]:
    """Where the directory starts, its bytes, and by how much offsets are shifted: a zip may stand behind other data."""
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - _TAIL))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise SourceError(f"{name!r} is no zip, or is cut off: it has no directory")
    size, offset = struct.unpack_from("<II", tail, at + 12)
    end = length - len(tail) + at
    if 0xFFFFFFFF in (size, offset) or tail[at + 10 : at + 12] == b"\xff\xff":
        if tail[at - 20 : at - 16] == _LOCATOR and at >= 20:
            (end,) = struct.unpack_from("<Q", tail, at - 12)
        file.seek(end)
        record = file.read(56)
        if record[:4] != _END64 or len(record) < 56:
            raise SourceError(f"{name!r} is damaged: its directory is not where it should be")
        size, offset = struct.unpack_from("<QQ", record, 40)
    start = end - size
    if not 0 <= start <= length:
        raise SourceError(f"{name!r} is damaged: its directory is not where it should be")
    return start, size, start - offset


def _member(file: IO[bytes], shift: int) -> Member | str:
    """The next member of the directory, or how it is damaged."""
    at = file.tell()
    header = file.read(_ENTRY.size)
    if len(header) < _ENTRY.size or not header.startswith(b"PK\1\2"):
        return f"its directory is damaged at byte {at}"
    _, flags, method, _, packed, size, name, extra, comment, mode, offset = _ENTRY.unpack(header)
    raw, more = file.read(name), file.read(extra)
    file.seek(comment, io.SEEK_CUR)
    size, packed, offset = _wide(more, size, packed, offset)
    text = _name(raw, flags)
    return Member(text, offset + shift, size, _problem(text, flags, method, size, packed, mode >> 16))


def _wide(extra: bytes, *values: int) -> list[int]:
    """The values that do not fit 32 bits, from the extra field that has them."""
    found, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        found = extra[at + 4 : at + 4 + length] if kind == 1 else found
        at += 4 + length
    wide = iter(struct.unpack(f"<{len(found) // 8}Q", found[: len(found) // 8 * 8]))
    return [next(wide, value) if value == 0xFFFFFFFF else value for value in values]


def _name(raw: bytes, flags: int) -> str:
    """UTF-8, whether it says so or not; else what zip's old programs meant."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & 0x800 else raw.decode("cp437")


def _problem(name: str, flags: int, method: int, size: int, packed: int, mode: int) -> Rejected | None:
    if name.startswith("/") or ".." in name.split("/"):
        return Rejected("source", "its name leaves the zip", code="outside-source")
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return Rejected("source", "a link, device or sparse file", code="not-a-file")
    if flags & 1:
        return Rejected("source", "it is encrypted: unpack the zip with its password", code="unreadable-file")
    if method not in (_STORED, _DEFLATED):
        return Rejected("source", f"it is packed by method {method}: zip it anew by deflate", code="unreadable-file")
    if size > FREE and size > packed * MAX_RATIO:
        reason = f"{packed} bytes unpack to {size}: more than 1 : {MAX_RATIO}"
        return Rejected("source", reason, code="too-large-file")
    return size_problem(size)
