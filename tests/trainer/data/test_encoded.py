"""What is encoded of streamed rows is kept as far as there is room, and a limit, damage or a full disk change no batch."""

from __future__ import annotations

import errno
import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support.noise import save_shards
from support.trainer_models import save_base
from support.trainer_runs import silent

from trainer.data.encoded import GB, Files, Room
from trainer.data.loader import Loader
from trainer.data.open import open_split
from trainer.data.split import Split
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Batch

ROWS, BATCH = 12, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(Model(base=str(save_base(tmp_path_factory.mktemp("base") / "sd15"))))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shards(tmp_path_factory.mktemp("shards") / "ds", [3, 4, 5])


class Counted:
    """A base that counts what it encodes."""

    def __init__(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = self.captions = 0
        pixels, text = base.encode_pixels, base.encode_text

        def encode_pixels(rows: Any) -> Any:
            self.pictures += len(rows)
            return pixels(rows)

        def encode_text(captions: Any) -> Any:
            self.captions += len(captions)
            return text(captions)

        monkeypatch.setattr(base, "encode_pixels", encode_pixels)
        monkeypatch.setattr(base, "encode_text", encode_text)


def opened(dataset: Path, kept: Path, base: Base, said: list[str], **cache: Any) -> Split:
    recipe = parse_recipe(
        {
            "data": {
                "path": str(dataset),
                "resolution": 64,
                "num_workers": 0,
                "streaming": True,
                "window": 6,
                "kind": "canny",
                "caption_dropout": 0.0,
            },
            "cache": {"dir": str(kept), **cache},
            "train": {"batch": BATCH, "micro_batch": BATCH},
        }
    )
    split = open_split(recipe, "train", training=True).with_caches(base)
    split.fill(ONE_PROCESS, silent, said.append)
    return split


def passes(split: Split, updates: int = 2 * ROWS // BATCH) -> list[Batch]:
    return [*islice(Loader(split, BATCH), updates)]


def assert_equal(found: list[Batch], wanted: list[Batch]) -> None:
    """All that the loss sees: but for the last bit, which depends on how many pictures are encoded together."""
    alike = partial(torch.allclose, rtol=2e-3, atol=1e-4)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys == other.keys
        assert one.latents is not None
        assert other.latents is not None
        assert alike(one.latents.mean, other.latents.mean)
        assert alike(one.latents.std, other.latents.std)
        assert one.conditions.equal(other.conditions)
        assert one.text.keys() == other.text.keys() == {"prompt_embeds"}
        assert alike(one.text["prompt_embeds"], other.text["prompt_embeds"])
        assert one.pixels is None


def test_a_row_is_encoded_once_and_a_limit_changes_nothing(
    dataset: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes encode each row and caption once, another run none; with less room further rows are encoded again, and it is said once."""
    said: list[str] = []
    counted = Counted(base, monkeypatch)
    wanted = passes(opened(dataset, tmp_path, base, said))
    assert (counted.pictures, counted.captions, said) == (ROWS, ROWS, [])
    assert_equal(passes(opened(dataset, tmp_path, base, said)), wanted)
    assert (counted.pictures, counted.captions, said) == (ROWS, ROWS, [])
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != tmp_path.name]
    limit = sum(path.stat().st_size for path in files) / 2 / GB
    few = tmp_path / "few"
    assert_equal(passes(opened(dataset, few, base, said, limit=limit)), wanted)
    assert ROWS * 2 < counted.pictures < ROWS * 3
    assert len(said) == 1
    assert f"the cache in {few} is full: cache.limit = " in said[0]
    assert sum(path.stat().st_size for path in few.glob("*-*-*/*/*")) <= limit * GB


def test_what_is_damaged_is_made_again(
    dataset: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a file, other bytes in it, and what a killed process has left of one."""
    wanted = passes(opened(dataset, tmp_path, base, []))
    rows = sorted(tmp_path.glob("latents-*-rows-*/*/*"))
    assert len(rows) == ROWS
    rows[0].write_bytes(rows[0].read_bytes()[:100])
    rows[1].write_bytes(rows[1].read_bytes()[:-1] + b"?")
    left = rows[2].with_name("name.0a1b2c3d.partial")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    written = left.with_name("name.4e5f6a7b.partial")
    written.write_bytes(b"half")
    counted = Counted(base, monkeypatch)
    assert_equal(passes(opened(dataset, tmp_path, base, [])), wanted)
    assert counted.pictures == 2
    assert not left.exists()
    assert written.exists(), "another run is writing it"


def test_a_disk_that_is_full_ends_the_keeping_and_not_the_run(
    dataset: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, with the disk's own reason, and nothing half written stays."""
    wanted, said = passes(opened(dataset, tmp_path, base, [])), list[str]()
    written = Files._write

    def full(files: Files, path: Path, content: bytes) -> None:
        if len([*(tmp_path / "full").rglob("*")]) > 12:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written(files, path, content)

    monkeypatch.setattr(Files, "_write", full)
    assert_equal(passes(opened(dataset, tmp_path / "full", base, said)), wanted)
    assert len(said) == 1
    assert "No space left on device" in said[0]


@pytest.mark.parametrize("kept", ["latents", "text"])
def test_each_kind_is_optional(kept: str, dataset: Path, base: Base, tmp_path: Path) -> None:
    """What is not kept is left to the learner, as without streaming: pixels, or captions."""
    cache = {name: name == kept for name in ("latents", "text")}
    for batch in passes(opened(dataset, tmp_path, base, [], **cache), 3):
        assert (batch.latents is not None, bool(batch.text)) == (kept == "latents", kept == "text")
        assert (batch.pixels is None) == (kept == "latents")
        complete = base.complete(batch)
        assert complete.latents is not None
        assert complete.text["prompt_embeds"].shape[0] == BATCH


def test_the_room_is_shared_out_to_the_processes(tmp_path: Path) -> None:
    """What is there counts, and together they never write more than the limit."""
    room = Room(100 / GB, tmp_path)
    room.share(taken=40, processes=3)
    assert [room.take(15), room.take(15), room.take(1)] == [True, False, False]
