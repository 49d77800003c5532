"""Rows as a WebDataset tar: of each row a few members one after the other, which agree up to the first dot.

    000003-5f2a9c0d.jpg         the picture, its very bytes (.png, .webp)
    000003-5f2a9c0d.cond.png    its map; of several annotators each has one more: .canny.png, .openpose.png
    000003-5f2a9c0d.txt         its caption, or several, a line each
    000003-5f2a9c0d.json        all other columns, and the captions as they are

The same rows are the same bytes: members have no owner and no time.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

CONDITION = "cond"  # what the map is called, whose column is `conditioning_image`
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


class TarSink:
    """An open tar to which rows are added."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed by `close`
        self._rows = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            stem = f"{self._rows:06d}-{row['key'][:8]}"
            for extension, data in members(row):
                info = tarfile.TarInfo(f"{stem}.{extension}")
                info.size, info.mode = len(data), 0o644
                self._tar.addfile(info, io.BytesIO(data))
            self._rows += 1

    def close(self) -> None:
        self._tar.close()


def members(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """(extension, content) of each member of a row, the picture first."""
    said = {}
    for column, value in row.items():
        data = (
            next((value[name] for name in ("bytes", "png") if value.get(name)), None)
            if isinstance(value, dict)
            else None
        )
        if data is None:
            said[column] = value
            continue
        name = {"image": "", "conditioning_image": f"{CONDITION}."}.get(column, f"{column}.")
        yield name + _extension(data), data
        if rest := {key: one for key, one in value.items() if key not in ("bytes", "png", "path")}:
            said[column] = rest  # of raw depth: its range
    captions = [" ".join(one.splitlines()) for one in row["text"]] if isinstance(row["text"], list) else [row["text"]]
    yield "txt", "\n".join(captions).encode()
    yield "json", json.dumps(said, ensure_ascii=False, sort_keys=True).encode()


def _extension(data: bytes) -> str:
    """By what the bytes begin with: others are TIFF and what else a source may have, under the name that all readers take."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "img")
