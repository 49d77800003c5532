"""What is computed once: latents, conditions, text. Memory-mapped shards that are either complete or not there.

A folder is named by a hash of everything that its numbers depend on, so nothing in it is ever out of date. Shards are
shared out to the processes; a build that was interrupted goes on where it stopped. They are plain .npy files (bf16 as
the int16 of the same bits):

    latents-512x768-00003.npy      (n, 2, C, h, w), the posterior's mean and std in the denoiser's space
    conditions-512x768-00003.npy   (n, 1 or 3, H, W) uint8; of K kinds (n, K or 3 K, H, W)
    hints-512x768-00003.npy        (n, C, h, w), of K kinds (n, K C, h, w), the conditions as latents, of families that take them so
    prompt_embeds-00003.npy        (n, L, D); of SDXL also pooled-00003.npy, (n, P)
    prompt_mask-00003.npy          (n, L), of families that hear a caption as long as it is: L is the longest of the shard

Beside them lies what was written, 512x768-00003.json and 00003.json: a shard without it, or of other bytes, is made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from condprep.images.decode import Pixels
from condprep.images.geometry import Size
from condprep.runtime.concurrency import ordered_map
from condprep.runtime.folder import check_own
from condprep.runtime.own import make_folder
from trainer.data.planes import all_planes, fewest_planes
from trainer.data.shelf import Shelf, mapped, stored_type
from trainer.errors import ModelError
from trainer.models.text import one_below_the_other
from trainer.types import Latents, ProcessGroup, Say, torch_dtype

T = TypeVar("T")
CountProgress = Callable[[int, int], None]  # done, total

SHARD_BYTES = 64_000_000  # of conditions, about
ENCODED_PIXELS = 8 * 512 * 512  # at a time
SHARD_CAPTIONS, ENCODED_CAPTIONS = 256, 32


@dataclass(frozen=True, slots=True)
class CachedRow:
    """What is encoded: a row, as it is or mirrored."""

    number: int
    mirrored: bool = False


@dataclass(frozen=True)
class CacheShard:
    name: str
    size: Size  # of its pictures, (height, width)
    rows: Sequence[CachedRow]


@dataclass(frozen=True)
class EncodedBatch:
    """Rows of one shard."""

    maps: Sequence[Pixels]  # their conditions, (H, W, 3) each
    latents: Tensor  # (B, 2, C, h, w)
    hints: Tensor | None  # the conditions' latents, (B, C, h, w), where they are wanted

    def here(self) -> EncodedBatch:
        """On the CPU. Raises ModelError for latents that are no numbers."""
        hints = None if self.hints is None else finite(self.hints, "the VAE").cpu()
        return EncodedBatch(self.maps, finite(self.latents, "the VAE").cpu(), hints)


@contextmanager
def one_run(folder: Path, group: ProcessGroup) -> Iterator[None]:
    """One run at a time fills a cache: another one waits, and then finds the work done. Raises UsageError for links in it."""
    folder.mkdir(parents=True, exist_ok=True)
    check_own(folder, os.listdir(folder))
    lock = FileLock(folder / ".lock")
    try:
        if not group.rank:
            lock.acquire()
        group.barrier()
        yield
    finally:
        lock.release()


def stored_bytes(folder: Path) -> int:
    """Of the shards in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.npy"))


def lay_out(buckets: Sequence[Size], mirror: bool, kinds: int = 1) -> list[CacheShard]:
    """The shards of a split. buckets: (height, width) of each row; mirror: every row also mirrored; kinds: of conditions."""
    by_size: dict[Size, list[CachedRow]] = {}
    for row, size in enumerate(buckets):
        by_size.setdefault(size, []).extend(
            CachedRow(row, mirrored) for mirrored in ((False, True) if mirror else (False,))
        )
    return [
        CacheShard(f"{size[0]}x{size[1]}-{number:05d}", size, part)
        for size, rows in sorted(by_size.items())
        for number, part in enumerate(_cut(rows, max(1, SHARD_BYTES // (3 * kinds * size[0] * size[1]))))
    ]


class LatentCache:
    """Latents and conditions of every row of a split."""

    def __init__(
        self,
        folder: Path,
        shards: Sequence[CacheShard],
        dtype: str,
        whole: bool = False,
        hints: bool = False,
        kinds: int = 1,
    ) -> None:
        """whole: compare every byte with what was written, and not only a few. hints: conditions are encoded, too. kinds: of conditions."""
        self.folder, self.shards, self.dtype, self.with_hints = folder, shards, torch_dtype(dtype), hints
        self.kinds = kinds
        self._shelf = Shelf(folder, whole)
        self._places = {row: (shard.name, at) for shard in shards for at, row in enumerate(shard.rows)}

    @property
    def missing(self) -> list[CacheShard]:
        """What is not there, or not as it was written."""
        return [shard for shard in self.shards if not self._shelf.holds(shard.name, partial(self._fits, shard))]

    def _fits(self, shard: CacheShard, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
        """Whether an array is one of the shard's."""
        if name.startswith("conditions"):
            return dtype == np.uint8 and [*shape] in [
                [len(shard.rows), planes * self.kinds, *shard.size] for planes in (1, 3)
            ]
        if name.startswith("hints"):
            return dtype == stored_type(self.dtype) and len(shape) == 4 and shape[0] == len(shard.rows)
        return dtype == stored_type(self.dtype) and len(shape) == 5 and [*shape[:2]] == [len(shard.rows), 2]

    def build(
        self,
        encode: Callable[[Tensor], Latents],
        views: Callable[[CachedRow], tuple[Pixels, Pixels]],
        group: ProcessGroup,
        progress: CountProgress,
        say: Say = lambda _: None,
        workers: int = 0,
    ) -> bool:
        """Make what is missing; False where this process has made nothing.

        encode: (B, 3, H, W) uint8 -> latents; views: picture and condition, (H, W, 3) each, in `workers` threads ahead of it;
        another thread writes behind it.

        say: is told what is made again because it is damaged. Raises ModelError for latents that are no numbers, OSError where the disk is full.
        """
        make_folder(self.folder)
        mine = _shared_out(self.missing, group)
        self._shelf.tell(say, group)
        total, done = sum(len(shard.rows) for shard in mine), 0
        with ThreadPoolExecutor(max(1, workers)) as readers, ThreadPoolExecutor(1) as writer:
            viewed, written = _viewed(readers, workers, views, mine), None
            for shard in mine:
                batches = []
                for batch in self._encoded(encode, shard, viewed):
                    batches.append(batch)
                    progress(done := done + len(batch.maps), total)
                if written:
                    written.result()  # one shard at a time waits for the disk; a full one is told
                written = writer.submit(self._put, shard, batches)
            if written:
                written.result()
        group.barrier()
        return bool(mine)

    def _encoded(
        self, encode: Callable[[Tensor], Latents], shard: CacheShard, viewed: Iterator[tuple[Pixels, Pixels]]
    ) -> Iterator[EncodedBatch]:
        """On the CPU. A device has the next one before this one is waited for."""
        before: EncodedBatch | None = None
        for some in _cut(shard.rows, max(1, ENCODED_PIXELS // (shard.size[0] * shard.size[1]))):
            pixels, maps = zip(*islice(viewed, len(some)))
            latents = self._latents(encode, pixels)
            each = zip(*(np.split(one, self.kinds, axis=2) for one in maps)) if self.with_hints else ()
            hints = torch.cat([self._latents(encode, one)[:, 0] for one in each], 1) if self.with_hints else None
            if before:
                yield before.here()
            before = EncodedBatch(maps, latents, hints)
        if before:
            yield before.here()

    def _latents(self, encode: Callable[[Tensor], Latents], pixels: Sequence[Pixels]) -> Tensor:
        """B of (H, W, 3) -> (B, 2, C, h, w) on the device."""
        latents = encode(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous())
        return torch.stack((latents.mean, latents.std), 1).to(self.dtype)

    def _put(self, shard: CacheShard, batches: Sequence[EncodedBatch]) -> None:
        """All batches of a shard, into its files."""
        maps = np.stack([one for batch in batches for one in batch.maps])  # (n, H, W, 3 K)
        conditions = fewest_planes(torch.from_numpy(maps).permute(0, 3, 1, 2))
        arrays = {"latents": torch.cat([batch.latents for batch in batches]), "conditions": conditions}
        if hints := [batch.hints for batch in batches if batch.hints is not None]:
            arrays["hints"] = torch.cat(hints)
        self._shelf.put(shard.name, {f"{kind}-{shard.name}.npy": array for kind, array in arrays.items()})

    def read(self, rows: Iterable[CachedRow]) -> tuple[Latents, Tensor]:
        """B rows of one bucket -> latents, (B, C, h, w) each, and conditions, (B, 3, H, W) or (B, 3 K, H, W) uint8."""
        places = [self._places[row] for row in rows]
        latents = [_row(self._file("latents", name), at) for name, at in places]
        mean, std = (
            _tensor([row[n] for row in latents], self.dtype) for n in range(2)
        )  # contiguous: pinned without a copy
        grey_or_not = [_row(self._file("conditions", name), at) for name, at in places]
        conditions = [all_planes(one, 3 * self.kinds) for one in grey_or_not]
        return Latents(mean, std), _tensor(conditions, torch.uint8)

    def read_hints(self, rows: Iterable[CachedRow]) -> Tensor | None:
        """B rows of one bucket -> their conditions as latents, (B, C, h, w); None where they are not encoded."""
        if not self.with_hints:
            return None
        places = [self._places[row] for row in rows]
        return _tensor([_row(self._file("hints", name), at) for name, at in places], self.dtype)

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{name}.npy"


class TextCache:
    """What the text encoders make of every caption that occurs, and of the empty one, each once."""

    def __init__(self, folder: Path, captions: Sequence[str], dtype: str, whole: bool = False) -> None:
        """captions: as `distinct` gives them; whole: as of LatentCache."""
        self.folder, self.captions, self.dtype = folder, captions, torch_dtype(dtype)
        self._shelf = Shelf(folder, whole)
        self._numbers = {caption: number for number, caption in enumerate(captions)}
        self._names: list[str] = []

    @property
    def missing(self) -> list[int]:
        """Numbers of shards that are not there, or not as they were written."""
        count = -(-len(self.captions) // SHARD_CAPTIONS)
        return [n for n in range(count) if not self._shelf.holds(f"{n:05d}", partial(self._fits, n))]

    def _fits(self, number: int, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
        rows = len(self.captions[number * SHARD_CAPTIONS : (number + 1) * SHARD_CAPTIONS])
        return dtype == stored_type(self.dtype) and len(shape) > 1 and shape[0] == rows

    def build(
        self,
        encode: Callable[[Sequence[str]], Mapping[str, Tensor]],
        group: ProcessGroup,
        progress: CountProgress,
        say: Say = lambda _: None,
        at_once: int = ENCODED_CAPTIONS,
    ) -> None:
        """Make what is missing. encode: at most so many captions -> tensors with a row each. Raises as LatentCache.build does."""
        make_folder(self.folder)
        mine = _shared_out(self.missing, group)
        self._shelf.tell(say, group)
        for done, number in enumerate(mine, 1):
            part = self.captions[number * SHARD_CAPTIONS : (number + 1) * SHARD_CAPTIONS]
            encoded = [encode(some) for some in _cut(part, at_once)]
            arrays = {
                f"{name}-{number:05d}.npy": one_below_the_other([one[name] for one in encoded]).to(self.dtype)
                for name in sorted(encoded[0])
            }
            self._shelf.put(
                f"{number:05d}", {name: finite(array, "a text encoder").cpu() for name, array in arrays.items()}
            )
            progress(done, len(mine))
        group.barrier()

    def read(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """B captions -> {"prompt_embeds": (B, L, D), ...}. Of shards of another length the longest one's, filled with zeros."""
        self._names = self._names or [name.rpartition("-")[0] for name in self._shelf.names("00000")]
        places = [divmod(self._numbers[caption], SHARD_CAPTIONS) for caption in captions]
        return {
            name: _tensor(_of_one_length([_row(self._file(name, shard), at) for shard, at in places]), self.dtype)
            for name in self._names
        }

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}.npy"


def _shared_out(missing: Sequence[T], group: ProcessGroup) -> Sequence[T]:
    """What this process has to make. All have listed the same before the first of them makes something of it."""
    group.barrier()
    return missing[group.rank :: group.size]


def distinct(captions: Iterable[str]) -> list[str]:
    """Each once, the empty one first."""
    return list(dict.fromkeys(["", *captions]))


def finite(tensor: Tensor, whose: str) -> Tensor:
    """The tensor. Raises ModelError where it holds what is no number."""
    if not tensor.isfinite().all():
        raise ModelError(
            f"{whose} gives values that are no finite numbers in {str(tensor.dtype).removeprefix('torch.')}: say "
            'train.precision = "bf16" and cache.dtype = "fp32", or name a VAE made for half precision in model.vae'
        )
    return tensor


def _viewed(
    readers: Executor,
    workers: int,
    views: Callable[[CachedRow], tuple[Pixels, Pixels]],
    shards: Sequence[CacheShard],
) -> Iterator[tuple[Pixels, Pixels]]:
    """Pictures and conditions in the order of the shards, two batches of them ahead of who asks."""
    rows = [(shard.size[0] * shard.size[1], row) for shard in shards for row in shard.rows]
    if not workers:
        return (views(row) for _, row in rows)
    return ordered_map(readers, lambda one: views(one[1]), rows, len(rows), lambda one: one[0], 2 * ENCODED_PIXELS)


def _row(path: Path, at: int) -> np.ndarray:
    """One row of a shard, where it lies."""
    row: np.ndarray = mapped(path)[at]
    return row


def _of_one_length(rows: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Rows (L, ...): the shorter ones filled with zeros. Rows of a base whose captions are all as long are as they are."""
    longest = max(len(row) for row in rows)
    return [
        row if len(row) == longest else np.pad(row, [(0, longest - len(row)), *[(0, 0)] * (row.ndim - 1)])
        for row in rows
    ]


def _tensor(rows: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """B rows, copied together by numpy: torch would wake a second team of threads, which slows down the training's own."""
    joined = np.empty((len(rows), *rows[0].shape), rows[0].dtype)  # contiguous, also where rows are broadcast
    return torch.from_numpy(np.stack(rows, out=joined)).view(dtype)


def _cut(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
