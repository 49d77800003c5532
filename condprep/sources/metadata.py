"""Reading a listing: JSON, CSV or Parquet that names pictures. A row at a time; what cannot be read is a row with its problem."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from condprep.errors import SourceError
from condprep.runtime.parquet_pages import check_total, sound_rows
from condprep.runtime.retry import as_fault, is_passing
from condprep.runtime.text import lines_of
from condprep.sources.kinds import is_picture
from condprep.sources.text import bom, encoding_of

MAX_LINE = 1 << 20  # characters of a line of JSON or CSV, or of one JSON value; a longer one is a problem
MAX_FIELD_LINES = 1000  # of a quoted field of CSV
_CHUNK = 1 << 16
_DELIMITERS = ",;\t|"
_OPEN = "unexpected end of data"  # what csv says of a quote that is not closed


class Document(Protocol):
    """A file to read: a Path is one."""

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...


MetadataRow = tuple[int, dict[str, Any] | str]  # number (line or row, from 1), and the values or why there are none
Line = tuple[int, str, bool]  # number, text, whether that is all of the line


def read_rows(listing: Document) -> Iterator[MetadataRow]:
    """The rows of a listing, by its suffix. Raises SourceError where it is another kind of file."""
    readers = {".csv": csv_rows, ".tsv": csv_rows, ".parquet": parquet_rows, ".json": json_rows, ".jsonl": json_rows}
    return readers[listing.suffix.lower()](listing)


def json_rows(listing: Document) -> Iterator[MetadataRow]:
    """One JSON object per line, or values over several lines, or one list of all. What is no object is a problem."""
    with _text(listing) as file:
        head = file.read(_CHUNK).lstrip()
        file.seek(0)
        yield from _json_values(file) if _runs_over_lines(head) else _json_lines(file)


def csv_rows(listing: Document) -> Iterator[MetadataRow]:
    """Fields under a header, separated by what separates the header's. A row with more or fewer fields is a problem."""
    with _text(listing) as file:
        lines = _Lines(file)
        header: list[str] = []
        delimiter = ","
        for number, text, whole in lines:
            if not header:
                delimiter = "\t" if listing.suffix.lower() == ".tsv" else _delimiter(text)
            if not whole:
                yield number, f"line longer than {MAX_LINE} characters"
                continue
            fields = _record(number, text, lines, delimiter, len(header))
            if isinstance(fields, str):
                yield number, fields
            elif not header:
                header = fields
            elif len(fields) == len(header):
                yield lines.number, dict(zip(header, fields))
            elif fields:
                other = _delimiter(text) if len(fields) == 1 else delimiter
                hint = "" if other == delimiter else f"; it looks separated by {other!r}, the header by {delimiter!r}"
                yield lines.number, f"{len(fields)} fields under a header of {len(header)}{hint}"


def parquet_rows(listing: Document) -> Iterator[MetadataRow]:
    """The rows of a Parquet file, a thousand in memory at a time. Raises SourceError if it is none.

    Values that are neither text, numbers, nor made of them are None: a timestamp may be one that Python has not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with listing.open("rb") as handle:
        try:
            file = pq.ParquetFile(handle)
            names = [field.name for field in file.schema_arrow if _is_plain(field.type)]
            table = listing if isinstance(listing, Path) else _whole(handle)
            batches = sound_rows(table, names, 1000)
            check_total(table, names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if is_passing(error):
                raise as_fault(error, listing.name) from error
            raise SourceError(f"{listing.name} is no Parquet file: {error}") from None
        number = 0
        try:
            others = dict.fromkeys(name for name in file.schema_arrow.names if name not in names)
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield number, row | others
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            if is_passing(error):
                raise as_fault(error, listing.name) from error
            yield number + 1, f"damaged from here on: {error}"


def _whole(handle: IO[bytes]) -> bytes:
    handle.seek(0)
    return handle.read()


def _is_plain(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    named = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return any(is_that(kind) for is_that in (*named, types.is_null))


def encoding_note(listing: Document) -> str | None:
    """What has to be said of a listing's encoding: that it was guessed."""
    encoding = None if listing.suffix.lower() == ".parquet" else _encoding(listing)
    return None if encoding in (None, "utf-8", *_MARKED) else f"listing read as {encoding}"


_MARKED = ("utf-8-sig", "utf-16", "utf-32")


def _encoding(listing: Document) -> str:
    """UTF-8, what a byte order mark says, or else what the lines that are no UTF-8 look like."""
    with listing.open("rb") as file:
        if marked := bom(file.read(4)):
            return "utf-8-sig" if marked[0] == "utf-8" else marked[0][:6]
        file.seek(0)
        check = codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := file.read(_CHUNK):
                check.decode(chunk)
            check.decode(b"", final=True)
        except UnicodeDecodeError:
            file.seek(0)
            return encoding_of(_odd_lines(file)) or "utf-8"
    return "utf-8"


def _odd_lines(file: IO[bytes]) -> bytes:
    """The first of those lines that are not ASCII."""
    found = bytearray()
    while len(found) < _CHUNK and (line := file.readline(_CHUNK)):
        if not line.isascii():
            found += line
    return bytes(found[:_CHUNK])


def _text(listing: Document) -> io.TextIOWrapper:
    r"""A listing as text. Bytes that are none become \udc80..\udcff, so that they cost the caption that they stand in alone."""
    encoding = _encoding(listing)
    errors = "replace" if encoding in ("utf-16", "utf-32") else "surrogateescape"
    return io.TextIOWrapper(listing.open("rb"), encoding, errors, newline="")


class _Lines:
    """The lines of a text, none held beyond MAX_LINE; lines can be given back."""

    def __init__(self, file: io.TextIOBase) -> None:
        self.file, self.back = file, deque[Line]()
        self.read = 0  # lines of the file
        self.number = 0  # of the line that was given last

    def __iter__(self) -> Iterator[Line]:
        while line := self.next():
            yield line

    def next(self) -> Line | None:
        line = self.back.popleft() if self.back else self._from_file()
        self.number = line[0] if line else self.number
        return line

    def give_back(self, lines: Iterable[Line]) -> None:
        self.back.extendleft(reversed([*lines]))

    def _from_file(self) -> Line | None:
        if not (text := self.file.readline(MAX_LINE)):
            return None
        self.read += 1
        whole = len(text) < MAX_LINE or text.endswith(("\n", "\r"))
        rest = "" if whole else text
        while rest and not rest.endswith(("\n", "\r")):
            rest = self.file.readline(MAX_LINE)
        return self.read, text, whole


def _json_lines(file: io.TextIOBase) -> Iterator[MetadataRow]:
    for number, line, whole in _Lines(file):
        if not whole:
            yield number, f"line longer than {MAX_LINE} bytes"
        elif line.strip():
            try:
                yield number, _object(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield number, f"malformed JSON: {error}"


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


def _runs_over_lines(head: str) -> bool:
    """Whether a text of JSON is not one value a line: its first line is none, or is a list of objects."""
    try:
        first = json.loads(lines_of(head)[0]) if head else {}
    except (ValueError, RecursionError):
        return re.match(r'\[\s*\{|\{\s*"', head) is not None and _begins_with_value(head)
    return isinstance(first, list) and bool(first) and isinstance(first[0], dict)


def _begins_with_value(head: str) -> bool:
    """A value that is whole, or goes on beyond the head: a broken first line is neither."""
    try:
        json.JSONDecoder().raw_decode(head.lstrip("[ \t\r\n"))
    except (ValueError, RecursionError) as error:
        return len(head) >= _CHUNK - 1 and isinstance(error, ValueError)
    return True


def _json_values(file: io.TextIOBase) -> Iterator[MetadataRow]:
    """Values one after the other, with commas and brackets around; numbered from 1. What is damaged ends them."""
    decoder, buffer, at, number, most = json.JSONDecoder(), "", 0, 0, MAX_LINE
    between = re.compile(r"[\s,\[]*")
    while True:
        at = between.match(buffer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        try:
            if buffer[at : at + 1] == "]":
                return
            value, end = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            chunk = file.read(_CHUNK) if len(buffer) - at < most else ""
            if chunk:
                buffer, at = buffer[at:] + chunk, 0
                continue
            if at < len(buffer):
                yield number + 1, f"damaged from here on: malformed JSON: {error}"
            return
        number, at = number + 1, end
        yield number, _object(value)


def _delimiter(line: str) -> str:
    """What separates the most fields; the comma where nothing separates more."""
    return max(_DELIMITERS, key=lambda one: (line.count(one), one == ","))


def _record(number: int, text: str, lines: _Lines, delimiter: str, columns: int) -> list[str] | str:
    """The fields of a record that begins with this line, or why there are none. A quote that is not closed costs its line."""
    try:
        return _fields([text], delimiter, strict=True)
    except csv.Error as error:
        if _OPEN not in str(error):
            return _leniently(text, delimiter)
    block: list[Line] = [(number, text, True)]
    quotes, size = text.count('"'), len(text)
    while quotes % 2 and size < MAX_LINE and len(block) < MAX_FIELD_LINES and (line := lines.next()):
        block.append(line)
        quotes, size = quotes + line[1].count('"'), size + len(line[1])
    try:
        fields = _fields([line for _, line, _ in block], delimiter, strict=True)
        if not _swallows_rows(fields, block[1:], delimiter, columns):
            return fields
    except csv.Error:
        pass
    lines.give_back(block[1:])
    lines.number = number
    return "a quote that is not closed"


def _fields(lines: list[str], delimiter: str, strict: bool) -> list[str]:
    """Raises csv.Error, also where they are more than one record."""
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    fields = next(reader, [])
    if reader.line_num < len(lines):
        raise csv.Error("more than one record")
    return fields


def _leniently(text: str, delimiter: str) -> list[str] | str:
    """Text after a closing quote belongs to the field, as other readers have it."""
    try:
        return _fields([text], delimiter, strict=False)
    except csv.Error as error:
        return f"malformed CSV: {error}"


def _swallows_rows(fields: list[str], others: list[Line], delimiter: str, columns: int) -> bool:
    """Whether lines within a field look like rows of their own, with a picture where the record has one."""
    at = next((n for n, field in enumerate(fields) if is_picture(field)), None)
    parts = (text.rstrip("\r\n").split(delimiter) for _, text, _ in others)
    return at is not None and any(len(part) == columns and is_picture(part[at]) for part in parts)
