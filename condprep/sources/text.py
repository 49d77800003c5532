"""Captions: from the bytes of a file, or from a value of a listing. What cannot be told costs the caption, never the picture."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from condprep.errors import Rejected
from condprep.runtime.text import lines_of

MAX_CAPTION = 1 << 16  # bytes of one caption file that are read; what follows is cut
MAX_DESCRIPTION = 1 << 20  # bytes of a picture's .json; a larger one is not read
DESCRIBED_BY = ("text", "caption", "prompt")  # its key with the captions: the first that is there
DAMAGED = "caption left out: its .json is damaged"
TOO_LARGE = f"caption left out: its .json is larger than {MAX_DESCRIPTION >> 20} MiB"
UNTOLD = "caption left out: its encoding cannot be told"
_BOMS = {  # the longer first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_OTHERS = (  # what people have; of the hundred that Python knows, others fit a short caption by chance
    *(
        "cp1252",
        "cp1250",
        "cp1251",
        "cp1253",
        "cp1254",
        "cp1255",
        "cp1256",
        "cp1257",
        "cp1258",
        "iso8859_2",
        "mac_roman",
    ),
    *(
        "koi8_r",
        "koi8_u",
        "shift_jis",
        "cp932",
        "euc_jp",
        "iso2022_jp",
        "gb18030",
        "big5",
        "euc_kr",
        "cp949",
        "tis_620",
    ),
)
_RAW_BYTES = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are no text


class Captions(NamedTuple):
    """The captions of one picture, and what has to be said of how they were read."""

    texts: tuple[str, ...]
    note: str | None = None


def bom(data: bytes) -> tuple[str, int] | None:
    """The encoding that a byte order mark names, and the mark's length."""
    return next(((name, len(mark)) for mark, name in _BOMS.items() if data.startswith(mark)), None)


def captions(data: bytes, *, each_line: bool = True) -> tuple[str, ...]:
    """The captions in a file: one a line, or all lines as one; what is empty is none."""
    return read_captions(data, each_line=each_line).texts


def read_captions(data: bytes, *, each_line: bool = True) -> Captions:
    """The same, with what has to be said of the encoding. Cut at MAX_CAPTION bytes."""
    text, note = _text(data[:MAX_CAPTION], cut=len(data) >= MAX_CAPTION)
    each = clean([" ".join(line.splitlines()) for line in lines_of(text)])  # other separators are white space
    return Captions(each if each_line else clean([" ".join(each)]), note)


def read_values(value: Any) -> Captions:
    """The captions in a string, a number, a list of those, or nothing, and what has to be said of them.

    Raises Rejected("read", reason) for anything else.
    """
    values = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str | int | float) for one in values):
        reason = f"the caption {value!r:.80} is neither a string nor a list of strings"
        raise Rejected("read", reason, code="bad-caption")
    given = [one for one in values if one is not None and not (isinstance(one, float) and math.isnan(one))]
    told = [one if isinstance(one, str) else str(one) for one in given]
    if any(map(_RAW_BYTES.search, told)):
        return Captions(clean([one for one in told if not _RAW_BYTES.search(one)]), UNTOLD)
    if len(told) < len(values):
        return Captions(clean(told), "caption that is null or NaN: empty")
    numbers = any(not isinstance(one, str) for one in given)
    return Captions(clean(told), "caption that is a number: kept as text" if numbers else None)


def read_description(data: bytes, keys: Sequence[str] = DESCRIBED_BY) -> Captions:
    """The captions in a picture's .json, an object, and what has to be said where it has none.

    Raises Rejected("read", reason) where they are no text.
    """
    if len(data) > MAX_DESCRIPTION:
        return Captions((), TOO_LARGE)
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return Captions((), DAMAGED)
    if not isinstance(values, dict):
        return Captions((), DAMAGED)
    if (key := next((one for one in keys if one in values), None)) is None:
        return Captions((), f"no caption: its .json has no {' or '.join(keys)}")
    return read_values(values[key])


def clean(values: list[str]) -> tuple[str, ...]:
    """Stripped, not empty, not endless, and storable: JSON can spell half a surrogate pair, which is no text."""
    texts = (one[:MAX_CAPTION].replace("\0", "\ufffd").encode("utf-8", "replace").decode().strip() for one in values)
    return tuple(text for text in texts if text)


def encoding_of(data: bytes) -> str | None:
    """The encoding of text that is neither UTF-8 nor marked; None where it cannot be told.

    What charset-normalizer makes of it, but of the encodings that fit equally well, Windows' western one.
    """
    from charset_normalizer import from_bytes

    if _is_damaged_utf8(data) or b"\0" in data:
        return None
    found = from_bytes(data, cp_isolation=list(_OTHERS))
    best = found.best()
    if best is None:
        return None
    equal = (match for match in found if match.chaos <= best.chaos)
    if any("cp1252" in (match.encoding, *match.could_be_from_charset) for match in equal):
        return "cp1252"
    return best.encoding


def _text(data: bytes, cut: bool) -> tuple[str, str | None]:
    """The text of a file, and what has to be said of its encoding; "" where that cannot be told."""
    marked = bom(data)
    name, mark = marked or ("utf-8", 0)
    if not marked and (wide := _unmarked_utf16(data)):
        return data.decode(wide, "ignore"), f"caption read as {wide}"
    try:
        return codecs.getincrementaldecoder(name)().decode(data[mark:], final=not cut), None
    except UnicodeError:
        guessed = None if marked else encoding_of(data)
    try:
        return (data.decode(guessed), f"caption read as {guessed}") if guessed else ("", UNTOLD)
    except UnicodeError:
        return "", UNTOLD


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 of mostly western text has a NUL in every second byte, and no other text has one."""
    odd, even = data[1::2].count(0), data[::2].count(0)
    if not data or max(odd, even) * 4 < len(data) or min(odd, even):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 hold more letters of it than errors: then it is what was meant, and no other encoding."""
    text = data.decode("utf-8", "replace")
    return sum(letter > "\x7f" and letter != "\ufffd" for letter in text) >= text.count("\ufffd")
