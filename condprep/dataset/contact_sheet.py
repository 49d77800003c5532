"""Contact sheets: pictures and their maps side by side, to be looked at before a long training run."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont, ImageOps

from condprep.dataset.reader import Shard, first_schema, is_image, readable_rows, shards, take
from condprep.dataset.remote import here
from condprep.errors import DatasetError, Rejected, UsageError
from condprep.images.decode import decode
from condprep.images.files import commit_picture
from condprep.images.geometry import smaller
from condprep.runtime.folder import check_suffix

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 100_000_000  # of a sheet: 300 MB while it is drawn
MAX_PICTURE = 200_000_000  # pixels of a stored picture: more is not decoded
GAP, LINE, TEXT = 12, 18, 13  # pixels: between pairs, a line of text, its letters
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf")
LONGEST = 1000  # letters of a caption that are looked at
PAPER, MAT, INK = (250, 250, 250), (224, 224, 224), (32, 32, 32)

SheetPicture = Image.Image | str  # or why there is none


@dataclass(frozen=True)
class SheetRow:
    """A picture and its maps, any sizes and modes, and lines of text below them."""

    pictures: Sequence[SheetPicture]
    lines: Sequence[str] = ()


def contact_sheet(
    pairs: Sequence[SheetRow], path: Path, *, titles: Sequence[str] = (), columns: int = 2, cell: int = 256
) -> None:
    """Draw the pairs, `columns` of them abreast, each picture fitted into `cell` x `cell` pixels, into an image file.

    titles: names of the pictures of a pair, written above the first ones. Raises UsageError for a path that is no
    .png, .jpg or .webp, for nothing to draw, and for a sheet of more than 100 megapixels.
    """
    check_suffix(path, FORMATS, "a contact sheet")
    if not pairs:
        raise UsageError(f"{path}: no rows to show")
    sheet = _draw(pairs, titles, min(columns, len(pairs)), cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    commit_picture(path, sheet, FORMATS[path.suffix.lower()])


def sheet(dataset: str | Path, out: str | Path, *, rows: int = 12, seed: int = 0, cell: int = 256) -> list[str]:
    """A contact sheet of `rows` rows drawn at random (the same ones for the same seed) from the dataset at `dataset`.

    Every column of pictures is shown; one that repeats another in all these rows is left out. Returns what the rows
    show, by source or number. Raises DatasetError where there is no dataset or it holds no pictures.
    """
    return draw_sheet(shards(here(dataset)), Path(out), rows=rows, seed=seed, cell=cell)


def draw_sheet(
    files: Sequence[Shard],
    out: Path,
    *,
    rows: int,
    seed: int = 0,
    cell: int = 256,
    lengths: Sequence[int] | None = None,
) -> list[str]:
    """`sheet` of given files. lengths: how many rows each has, where that is known."""
    if rows < 1:
        raise UsageError(f"--rows {rows}: a sheet shows a row, or more")
    pictures, further = _columns(first_schema(files))
    lengths = lengths or [readable_rows(file.path) for file in files]
    chosen = _sample(files, lengths, pictures + further, rows, seed)
    names = _distinct(pictures, [row for _, row in chosen])
    pairs = [SheetRow([_open(row[name], cell) for name in names], _lines(label, row)) for label, row in chosen]
    contact_sheet(pairs, out, titles=names, columns=max(1, 4 // len(names)), cell=cell)
    return [label for label, _ in chosen]


def _columns(columns: pa.Schema) -> tuple[list[str], list[str]]:
    """The columns of pictures, and those that label them."""
    pictures = [column.name for column in columns if is_image(column.type)]
    if not pictures:
        raise DatasetError(f"no column holds pictures; the columns are {', '.join(columns.names)}")
    return pictures, [name for name in ("text", "source") if name in columns.names]


def _sample(
    files: Sequence[Shard], lengths: Sequence[int], columns: Sequence[str], rows: int, seed: int
) -> list[tuple[str, dict[str, Any]]]:
    """(label, row) of at most `rows` rows, drawn from all that there are, in the dataset's order."""
    starts = [0, *accumulate(lengths)]
    chosen = sorted(random.Random(seed).sample(range(starts[-1]), min(rows, starts[-1])))
    found: list[tuple[str, dict[str, Any]]] = []
    for file, (start, end) in zip(files, pairwise(starts)):
        if numbers := [number - start for number in chosen if start <= number < end]:
            taken = zip(numbers, take(file.path, columns, numbers))
            found += [(str(row.get("source") or f"{file.path.name} row {number}"), row) for number, row in taken]
    return found


def _distinct(names: list[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Without those whose pictures are all in a later column: `conditioning_image` where annotators have their own."""

    def repeats(name: str, later: str) -> bool:
        return all(row[name] == row[later] for row in rows)

    return [name for n, name in enumerate(names) if not any(repeats(name, later) for later in names[n + 1 :])]


def _lines(label: str, row: Mapping[str, Any]) -> list[str]:
    text = row.get("text")
    caption = " | ".join(map(str, text)) if isinstance(text, list) else text if isinstance(text, str) else ""
    return [line for line in (caption, label) if line]


def _open(value: Mapping[str, Any] | None, cell: int) -> SheetPicture:
    """The stored picture, reduced to what the cell needs, or why it cannot be shown."""
    if not value or not value["bytes"]:
        return "not in the file"

    try:
        picture = decode(value["bytes"], max_pixels=MAX_PICTURE, reduction=lambda size: smaller(cell / max(size)))
    except Rejected as rejected:
        return f"unreadable: {rejected.reason}"
    return ImageOps.contain(Image.fromarray(picture.rgb), (cell, cell))


def _rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB; 16-bit grey (raw depth) by its high byte, which Pillow's own conversion would clip."""
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    return picture.convert("RGB")


def _draw(pairs: Sequence[SheetRow], titles: Sequence[str], columns: int, cell: int) -> Image.Image:
    abreast = max(len(pair.pictures) for pair in pairs)
    width, height = abreast * (cell + 2) - 2, cell + LINE * max(len(pair.lines) for pair in pairs)
    top = GAP + (LINE if titles else 0)
    size = (GAP + columns * (width + GAP), top + -(-len(pairs) // columns) * (height + GAP))
    if size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"a contact sheet of {len(pairs)} rows would be {size[0]} x {size[1]} px; show fewer rows")
    sheet = Image.new("RGB", size, PAPER)
    for number, pair in enumerate(pairs):
        x, y = GAP + number % columns * (width + GAP), top + number // columns * (height + GAP)
        if number < columns:
            for n, title in enumerate(titles):
                _write(sheet, (x + n * (cell + 2), GAP // 2), title, cell)
        _place(sheet, pair, (x, y), cell, width)
    return sheet


def _place(sheet: Image.Image, pair: SheetRow, corner: tuple[int, int], cell: int, width: int) -> None:
    """One pair: its pictures in a row, each in the middle of its cell, and its lines below."""
    x, y = corner
    for n, picture in enumerate(pair.pictures):
        left = x + n * (cell + 2)
        sheet.paste(MAT, (left, y, left + cell, y + cell))
        if isinstance(picture, str):
            _write(sheet, (left + 4, y + 4), picture, cell - 8)
            continue
        fitted = ImageOps.contain(_rgb(picture), (cell, cell))
        sheet.paste(fitted, (left + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))
    for n, line in enumerate(pair.lines):
        _write(sheet, (x, y + cell + 2 + n * LINE), line, width)


def _write(sheet: Image.Image, corner: tuple[int, int], text: str, width: int) -> None:
    """One line of text, cut where the width ends."""
    font = _font()
    ImageDraw.Draw(sheet).text(corner, clip(text, width, font.getlength), INK, font)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """One with many alphabets where the machine has one; Pillow's own knows little more than English."""
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, TEXT)
    return ImageFont.load_default(TEXT)


def clip(text: str, width: float, length: Callable[[str], float]) -> str:
    """One line without control characters, at most `width` wide by `length`; what was cut shows as an ellipsis."""
    line = "".join(c for c in " ".join(text[:LONGEST].split()) if c.isprintable())
    if len(text) <= LONGEST and length(line) <= width:
        return line
    fitting = bisect_right(range(len(line)), width, key=lambda n: length(line[:n] + "…"))
    return line[: max(0, fitting - 1)] + "…"
