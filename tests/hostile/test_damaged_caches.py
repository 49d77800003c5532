"""A trainer's cache that is damaged, or was made by somebody else: what does not fit is made again, and that is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.pictures import encoded, smooth
from support.trainer_runs import silent

from condprep.dataset.arrow import IMAGE
from trainer.data import cache
from trainer.data.cache import CachedRow, LatentCache, TextCache, distinct, lay_out
from trainer.data.record import write_record
from trainer.data.rows import open_rows
from trainer.data.scan import Scan, _known, _written
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Latents

Damage = Callable[[Path], object]
ROWS = 6


class Caches:
    """Both kinds in a folder, of arithmetic; what was said and encoded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said, self.encoded = folder, list[str](), 0

    def fill(self, whole: bool = False) -> tuple[LatentCache, TextCache]:
        shards = lay_out([(16, 16)] * ROWS, mirror=False)
        latents = LatentCache(self.folder / "latents", shards, "bf16", whole)
        text = TextCache(self.folder / "text", distinct(["a", "b"]), "fp32", whole)
        latents.build(self._pixels, self._views, ONE_PROCESS, silent, self.said.append)
        text.build(self._captions, ONE_PROCESS, silent, self.said.append)
        return latents, text

    def _pixels(self, pixels: torch.Tensor) -> Latents:
        self.encoded += len(pixels)
        return Latents(pixels[:, :1, ::8, ::8].float(), pixels[:, :1, ::8, ::8].float() + 1)

    def _captions(self, some: object) -> dict[str, torch.Tensor]:
        self.encoded += len(some)  # type: ignore[arg-type]
        return {"prompt_embeds": torch.ones(len(some), 3), "pooled": torch.ones(len(some), 2)}  # type: ignore[arg-type]

    def _views(self, row: CachedRow) -> tuple[np.ndarray, np.ndarray]:
        return (np.full((16, 16, 3), 10 + row.number, np.uint8),) * 2


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caches:
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * 16 * 16 * 2)  # two pictures a shard
    return Caches(tmp_path)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 1, 99, 16), np.uint8))


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)


DAMAGES: list[Damage] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-10]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    lambda path: path.unlink(),
    *(zeros, foreign, pickled),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["latents/latents-16x16-00001.npy", "latents/conditions-16x16-00000.npy", "text/pooled-00000.npy"]
)
def test_a_damaged_file_is_made_again(caches: Caches, name: str, damage: Damage) -> None:
    """Truncated, zeroed, of another shape, a pickle: its shard alone is made again, the same, and the user is told."""
    caches.fill()
    path = caches.folder / name
    before, caches.encoded = path.read_bytes(), 0
    damage(path)
    latents, _ = caches.fill()
    assert caches.encoded in (2, 3)
    assert path.read_bytes() == before
    (line,) = caches.said
    assert path.name in line
    assert "is made again" in line
    found, conditions = latents.read([CachedRow(number) for number in range(ROWS)])
    assert found.mean[:, 0, 0, 0].tolist() == conditions[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b"[" * 100_000, b'{"../x": {}}', b'{"x.npy": 3}', b"\xff", b"null"]
)
def test_a_damaged_record_is_no_record(caches: Caches, record: bytes) -> None:
    """Whatever lies where the record should be: the shard is made again."""
    caches.fill()
    caches.encoded = 0
    (caches.folder / "text" / "00000.json").write_bytes(record)
    caches.fill()
    assert caches.encoded == 3


@pytest.mark.parametrize("claimed", [foreign, pickled])
def test_a_record_vouches_for_no_array(caches: Caches, claimed: Damage) -> None:
    """A cache that somebody ships with fitting checksums, and arrays of other shapes or pickles in it."""
    caches.fill()
    path = caches.folder / "latents" / "conditions-16x16-00000.npy"
    claimed(path)
    write_record(path.with_name("16x16-00000.json"), [path.with_name("latents-16x16-00000.npy"), path])
    caches.encoded = 0
    caches.fill()
    assert caches.encoded == 2


def test_every_byte_is_compared_where_that_is_asked_for(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit in the middle of a large file passes the look at each start, and not --check-cache."""
    monkeypatch.setattr("trainer.data.record.BLOCK", 8)
    caches.fill()
    path = caches.folder / "latents" / "conditions-16x16-00002.npy"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    caches.encoded = 0
    caches.fill()
    assert (caches.encoded, caches.said) == (0, [])
    caches.fill(whole=True)
    assert caches.encoded == 2
    assert "has other bytes than were written" in caches.said[0]


@pytest.mark.parametrize("change", ["fingerprint", "sizes", "rows", "text", "[]"])
def test_a_damaged_scan_is_no_scan(tmp_path: Path, change: str) -> None:
    """What is known of the rows is believed only as it was written, and of as many rows."""
    found = Scan("ab" * 32, [(64, 64), (64, 96)])
    file = tmp_path / "scan.json"
    file.write_text(_written(found))
    assert _known(file, 2) == found
    rows = 3 if change == "rows" else 2
    known = json.loads(_written(found).splitlines()[0])
    texts = {"text": "{", "[]": "[]", "rows": _written(found)}
    changed = known | {change: [[1, 1], [1, 1]] if change == "sizes" else "cd" * 32}
    file.write_text(texts.get(change) or f"{json.dumps(changed)}\n{_written(found).splitlines()[1]}\n")
    assert _known(file, rows) is None


def test_a_damaged_copy_of_the_rows_is_made_again(tmp_path: Path) -> None:
    """Of a listing or Parquet: cut at a batch, zeroed, of other columns. The rows are those of the dataset."""
    value = {"bytes": encoded(smooth(64, 64)), "path": None}
    columns = {"image": [value] * 3, "conditioning_image": [value] * 3}
    kinds = pa.schema({"image": IMAGE, "conditioning_image": IMAGE, "text": pa.string()})
    (tmp_path / "ds").mkdir()
    pq.write_table(
        pa.table(columns | {"text": ["a", "b", "c"]}, kinds), tmp_path / "ds" / "train-00000-of-00001.parquet"
    )
    data = parse_recipe({"model": {"base": "b"}, "data": {"path": str(tmp_path / "ds")}}).data
    assert len(open_rows(data, "train", tmp_path / "kept")) == 3
    (copy,) = (tmp_path / "kept").glob("*.arrow")
    whole = copy.read_bytes()
    for damaged in (whole[:-8], whole[: len(whole) // 2], bytes(len(whole)), b"", b"\xff\xff\xff\xff\0\0\0\0"):
        copy.write_bytes(damaged)
        assert open_rows(data, "train", tmp_path / "kept").captions(2) == ("c",)
        assert copy.read_bytes() == whole
