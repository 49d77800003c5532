"""Arrays in files, each shard with the record of what was written: what is damaged, or another's, is made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condprep.runtime.files import commit
from condprep.runtime.own import remove
from trainer.data.record import damage, recorded, write_record
from trainer.errors import first_line
from trainer.types import ProcessGroup, Say

OPEN = 256  # mapped files at a time: each holds a file descriptor
Fits = Callable[[str, Sequence[int], "np.dtype[Any]"], bool]  # a file's name, its array's shape and type


class Shelf:
    """The shards of a folder, each with the record of what was written."""

    def __init__(self, folder: Path, whole: bool) -> None:
        self.folder, self.whole = folder, whole
        self._sound: set[str] = set()  # that have been looked at
        self._damaged: dict[str, str] = {}

    def holds(self, shard: str, fits: Fits) -> bool:
        """Whether a shard is complete, as it was written, and of arrays that fit."""
        if shard in self._sound:
            return True
        record = self._record(shard)
        if not record.exists():
            return False
        found = damage(record, self.whole) or _misfit(record, fits)
        if found:
            self._damaged[shard] = found
        else:
            self._sound.add(shard)
        return not found

    def put(self, shard: str, arrays: Mapping[str, Tensor]) -> None:
        """Arrays by their files' names; complete once the record is there."""
        remove(self._record(shard), missing_ok=True)  # of what was damaged
        paths = [self.folder / name for name in arrays]
        for path, array in zip(paths, arrays.values()):
            _save(path, array)
        write_record(self._record(shard), paths)
        mapped.cache_clear()

    def names(self, shard: str) -> list[str]:
        return recorded(self._record(shard))

    def tell(self, say: Say, group: ProcessGroup) -> None:
        """Say once what was damaged."""
        if self._damaged and not group.rank:
            first = next(iter(self._damaged.values()))
            more = f", as are {len(self._damaged) - 1} other shards" if len(self._damaged) > 1 else ""
            say(f"the cache {self.folder} is damaged ({first}): that shard is made again{more}")
        self._damaged.clear()

    def _record(self, shard: str) -> Path:
        return self.folder / f"{shard}.json"


def _misfit(record: Path, fits: Fits) -> str | None:
    """The file of another's that claims to be an array of ours."""
    for name in recorded(record):
        try:
            array = np.load(record.with_name(name), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            return f"{name} is no array: {first_line(error)}"
        if not isinstance(array, np.ndarray) or not fits(name, array.shape, array.dtype):
            return f"{name} holds an array of another shape or type"
    return None


def stored_type(dtype: torch.dtype) -> np.dtype[Any]:
    """As what numbers of that type lie in a file."""
    return torch.zeros(0, dtype=torch.int16 if dtype == torch.bfloat16 else dtype).numpy().dtype


def _save(path: Path, tensor: Tensor) -> None:
    plain = tensor.contiguous()
    array = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    commit(path, write)


@lru_cache(OPEN)
def mapped(path: Path) -> np.ndarray:
    """An array where it lies."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
