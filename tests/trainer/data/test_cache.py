"""Caches are made once, by all processes together, and hold nothing that is not whole."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
import torch
from support.trainer_runs import silent

from trainer.data import cache
from trainer.data.cache import CachedRow, LatentCache, TextCache, distinct, lay_out, one_run
from trainer.data.kept import cache_folder
from trainer.errors import ModelError
from trainer.models.text import apart, filled
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Latents, ProcessGroup


def painted(row: CachedRow) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a map of a row's own greys."""
    return tuple(np.full((8, 8, 3), 10 * row.number + part, np.uint8) for part in (0, 1))  # type: ignore[return-value]


def as_they_are(pixels: torch.Tensor) -> Latents:
    return Latents(pixels[:, :1].float(), pixels[:, 1:2].float() + 1)


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_an_interrupted_build_goes_on(dies_at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was finished is not made again, and the result is that of a build that never stopped."""
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * 8 * 8 * 2)  # two pictures a shard
    encoded: list[int] = []

    def encode(pixels: torch.Tensor) -> Latents:
        if len(encoded) == dies_at:
            raise KeyboardInterrupt
        encoded.append(len(pixels))
        return as_they_are(pixels)

    shards = lay_out([(8, 8)] * 7, mirror=False)
    with pytest.raises(KeyboardInterrupt):
        LatentCache(tmp_path, shards, "fp32").build(encode, painted, ONE_PROCESS, silent)
    done, dies_at = sum(encoded), -1
    again = LatentCache(tmp_path, shards, "fp32")
    again.build(encode, painted, ONE_PROCESS, silent)
    assert sum(encoded) == 7, f"{done} were done before"
    assert not again.missing
    latents, conditions = again.read([CachedRow(6), CachedRow(0), CachedRow(3)])
    assert latents.mean[:, 0, 0, 0].tolist() == [60, 0, 30]
    assert latents.std[:, 0, 0, 0].tolist() == [61, 1, 31]
    assert conditions[:, 2, 7, 7].tolist() == [61, 1, 31]


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_make_the_same_files(workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shards of three batches, decoded in threads and in the loop: every file is equal."""
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * 8 * 8 * 5)  # five pictures a shard
    monkeypatch.setattr(cache, "ENCODED_PIXELS", 2 * 8 * 8)
    made = []
    for name, threads in (("loop", 0), ("threads", workers)):
        known = LatentCache(tmp_path / name, lay_out([(8, 8)] * 12, mirror=False), "fp32")
        known.build(as_they_are, painted, ONE_PROCESS, silent, workers=threads)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) == 9


def test_pictures_are_decoded_while_others_are_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first batch is not encoded before a picture of the second has been decoded: one after the other would wait for ever."""
    monkeypatch.setattr(cache, "ENCODED_PIXELS", 2 * 8 * 8)
    ahead = Event()

    def views(row: CachedRow) -> tuple[np.ndarray, np.ndarray]:
        if row.number == 2:
            ahead.set()
        return painted(row)

    def encode(pixels: torch.Tensor) -> Latents:
        assert ahead.wait(600)
        return as_they_are(pixels)

    known = LatentCache(tmp_path, lay_out([(8, 8)] * 5, mirror=False), "fp32")
    known.build(encode, views, ONE_PROCESS, silent, workers=1)
    assert not known.missing


def test_a_shard_is_written_while_the_next_is_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first shard is not on the disk before the second is encoded, and a failure to write it is told."""
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * 8 * 8 * 2)
    second, save = Event(), np.save

    def encode(pixels: torch.Tensor) -> Latents:
        if pixels[0, 0, 0, 0] == 20:
            second.set()
        return as_they_are(pixels)

    def slow(*arguments: Any, **named: Any) -> None:
        assert second.wait(600)
        save(*arguments, **named)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    shards = lay_out([(8, 8)] * 4, mirror=False)
    monkeypatch.setattr(np, "save", slow)
    known = LatentCache(tmp_path / "slow", shards, "fp32")
    known.build(encode, painted, ONE_PROCESS, silent)
    assert not known.missing
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        LatentCache(tmp_path / "full", shards, "fp32").build(encode, painted, ONE_PROCESS, silent)


def test_processes_share_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two processes make every shard once between them, also where the first has begun before the second looks."""
    monkeypatch.setattr(cache, "SHARD_CAPTIONS", 2)
    captions = distinct(f"caption {number}" for number in range(7))
    meeting, first_waits = Barrier(2), Event()
    encoded: list[str] = []

    def encode(some: Sequence[str]) -> dict[str, torch.Tensor]:
        encoded.extend(some)
        return {"prompt_embeds": torch.tensor([[captions.index(one)] for one in some])}

    def wait(rank: int) -> None:
        if rank == 0:
            first_waits.set()
        meeting.wait()

    def build(rank: int) -> None:
        TextCache(tmp_path, captions, "fp32").build(encode, ProcessGroup(rank, 2, lambda: wait(rank)), silent)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build, 0)
        first_waits.wait()
        second = pool.submit(build, 1)
        first.result()
        second.result()
    assert sorted(encoded) == sorted(captions)
    assert not TextCache(tmp_path, captions, "fp32").missing


def test_captions_are_encoded_once_and_the_empty_one_always(tmp_path: Path) -> None:
    """However often a caption occurs, it is encoded and stored once; dropout finds the empty caption."""
    encoded: list[str] = []

    def encode(some: Any) -> dict[str, torch.Tensor]:
        encoded.extend(some)
        return {"prompt_embeds": torch.tensor([[float(len(one))] for one in some])}

    known = TextCache(tmp_path, distinct(["a", "bb", "a", "bb", "a"]), "fp32")
    known.build(encode, ONE_PROCESS, silent)
    assert encoded == ["", "a", "bb"]
    assert known.read(["bb", "", "a", "bb"])["prompt_embeds"].ravel().tolist() == [2, 0, 1, 2]


def test_captions_are_kept_as_long_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a shard are as long as its longest caption, in whatever portions they are encoded; rows of several shards come
    as long as the longest of those shards, filled with zeros: what a base makes of them together, and no shorter."""
    monkeypatch.setattr(cache, "SHARD_CAPTIONS", 2)

    def encode(some: Sequence[str]) -> dict[str, torch.Tensor]:
        return filled([torch.full((len(one), 3), float(len(one))) for one in some])

    captions = ["", "aaaaa", "b", "cc"]
    known = TextCache(tmp_path, captions, "fp32")
    known.build(encode, ONE_PROCESS, silent, at_once=1)
    assert [known.read([one])["prompt_mask"].shape[1] for one in captions] == [5, 5, 2, 2]
    found, expected = known.read(["cc", "aaaaa", ""]), encode(["cc", "aaaaa", ""])
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert [len(row) for row in apart(found)] == [2, 5, 0]


def test_latents_that_are_no_numbers_are_not_stored(tmp_path: Path) -> None:
    """A VAE that overflows stops the build with what to do about it, and leaves nothing behind."""
    shards = lay_out([(8, 8)], mirror=False)
    blank = np.zeros((8, 8, 3), np.uint8)

    def encode(pixels: torch.Tensor) -> Latents:
        return Latents(torch.full((1, 4, 1, 1), float("nan")), torch.ones(1, 4, 1, 1))

    with pytest.raises(ModelError, match=r"the VAE gives values that are no finite numbers in float32.*model\.vae"):
        LatentCache(tmp_path, shards, "fp32").build(encode, lambda _: (blank, blank), ONE_PROCESS, silent)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shard that could not be written whole is not there, so the next run makes it."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    known = TextCache(tmp_path, ["", "a"], "fp32")

    def encode(some: Any) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": torch.zeros(len(some), 1)}

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space"):
            known.build(encode, ONE_PROCESS, silent)
    assert known.missing == [0]
    known.build(encode, ONE_PROCESS, silent)
    assert not known.missing


def test_a_second_run_waits_for_the_cache(tmp_path: Path) -> None:
    """While one run fills a cache, another one stands still."""
    order = []

    def other() -> None:
        with one_run(tmp_path, ONE_PROCESS):
            order.append("second")

    with one_run(tmp_path, ONE_PROCESS):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("path", ["ds", "ds/", "./ds", "../{name}/ds"])
def test_the_cache_lies_beside_the_dataset(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However the dataset is written, its cache is ds.cache; of a name on the Hub it is in the current folder."""
    (tmp_path / "ds").mkdir()
    monkeypatch.chdir(tmp_path)
    data = {"path": path.format(name=tmp_path.name)}
    assert cache_folder(parse_recipe({"data": data})) == tmp_path / "ds.cache"
    assert cache_folder(parse_recipe({"data": {"path": "owner/pairs"}})) == Path("owner_pairs.cache")
