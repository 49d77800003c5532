"""What is encoded of rows that are streamed: kept on this machine, row by row as they come, as far as there is room.

A row's latents and condition, and a caption's embeddings, are a file each, called by a hash of what they are of, in a folder that
is called by a hash of all else that they depend on. They are encoded on the base's device when a batch first needs them, between
two updates. What has just been encoded is rounded as what comes from a file, so that a limit changes no result.

    latents-v3-rows-0a1b.../4f/2e...   latents (2, C, h, w), condition (1 or 3, of K kinds K or 3 K, H, W) uint8, and hint (C, h, w), of K kinds (K C, h, w), of families that take one
    text-v2-captions-.../...           what the text encoders return for the caption
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from hashlib import blake2b, sha256
from pathlib import Path
from secrets import token_hex

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from condprep.images.decode import Pixels
from condprep.runtime.folder import check_own
from condprep.runtime.own import create, make_folder, move, parent_of, remove
from trainer.data.cache import CachedRow, finite
from trainer.data.planes import fewest_planes
from trainer.models.base import Base
from trainer.models.text import one_below_the_other
from trainer.types import Batch, Latents, ProcessGroup, Say, torch_dtype

DIGEST = 16  # bytes at the beginning of a file: of those behind them
GB = 1_000_000_000
ABANDONED = 3600  # seconds after which nobody is writing a file any more, which takes a moment
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class PartialBatch(Batch):
    """A batch of streamed rows: what was found of them, and the pixels of the others."""

    names: tuple[str, ...] = ()  # of the rows' files; none where latents are not kept
    found: tuple[Tensors | None, ...] = ()  # for each row
    heard: Mapping[str, Tensors | None] = field(default_factory=dict)  # for each caption

    @property
    def is_found(self) -> bool:
        """Whether nothing of it has to be encoded."""
        return all(self.found) and all(self.heard.values())


class Room:
    """Bytes that this process may still write."""

    def __init__(self, limit: float, folder: Path) -> None:
        """limit: gigabytes, of all processes together."""
        self.limit, self.folder = limit, folder
        self.say: Say = _silent
        self._left, self._said = 0, False

    @property
    def bytes(self) -> int:
        return int(self.limit * GB)

    def share(self, taken: int, processes: int) -> None:
        """taken: bytes that are there already."""
        self._left = max(0, self.bytes - taken) // processes

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more."""
        if size > self._left:
            self.full(f"cache.limit = {self.limit:g} GB is reached")
            return False
        self._left -= size
        return True

    def full(self, why: str) -> None:
        """Write nothing more, and say so once."""
        self._left = 0
        if not self._said:
            self._said = True
            self.say(
                f"the cache in {self.folder} is full: {why}. Further rows are encoded each time; nothing else changes"
            )


class Files:
    """Tensors by name, a file for each: complete, or not there."""

    def __init__(self, folder: Path, room: Room) -> None:
        self.folder, self._room, self._made = folder, room, set[str]()

    @property
    def size(self) -> int:
        """Bytes. Files that a killed process has left half written are removed."""
        total = 0
        for parent, _, names in os.walk(self.folder):
            for path in (Path(parent, name) for name in names):
                with suppress(FileNotFoundError):  # another run has given it its name
                    status = path.stat()
                    total += status.st_size
                    if path.suffix == ".partial" and time.time() - status.st_mtime > ABANDONED:
                        remove(path)
        return total

    def get(self, name: str) -> Tensors | None:
        """None where there is none, or a damaged one."""
        try:
            content = self._path(name).read_bytes()
        except OSError:
            return None
        digest, tensors = content[:DIGEST], content[DIGEST:]
        return load(tensors) if digest == _digest(tensors) else None

    def put(self, name: str, tensors: Tensors) -> None:
        """Where there is room."""
        content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        if self._room.take(DIGEST + len(content)):
            try:
                self._write(self._path(name), content)
            except OSError as error:
                self._room.full(f"{error.strerror}")

    def _write(self, path: Path, content: bytes) -> None:
        """What a crash leaves of it is told by its digest: nothing waits for the disk."""
        if path.parent.name not in self._made:
            make_folder(path.parent)
            self._made.add(path.parent.name)
        partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
        try:
            with parent_of(partial) as parent, os.fdopen(create(parent, partial.name), "wb") as file:
                file.write(_digest(content) + content)
            move(partial, path)
        except OSError:
            remove(partial, missing_ok=True)
            raise

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]


class Encoded:
    """Reads what is kept for a batch, in any thread, and encodes and keeps the rest of it, in the one that has the device."""

    def __init__(
        self,
        base: Base,
        dtype: str,
        latents: Files | None,
        text: Files | None,
        content: Callable[[int], tuple[str, int]],
        room: Room,
        kinds: int = 1,
    ) -> None:
        """content: of a row, a fingerprint of its file, and its number there; room: of both kinds of files; kinds: of conditions."""
        self.base, self.dtype, self.latents, self.text = base, torch_dtype(dtype), latents, text
        self._content, self.room, self._planes = content, room, 3 * kinds

    def begin(self, group: ProcessGroup, say: Say) -> None:
        """Share the room that is left out to the processes of this machine. Raises UsageError for links in the folder."""
        make_folder(self.room.folder)
        check_own(self.room.folder, os.listdir(self.room.folder))
        self.room.say = _silent if group.rank else say
        here = int(os.environ.get("LOCAL_WORLD_SIZE", group.size))
        self.room.share(sum(files.size for files in (self.latents, self.text) if files), here)
        group.barrier()  # before any of them writes

    def named(self, row: CachedRow) -> str:
        """What a row's file is called."""
        return _hash(f"{self._content(row.number)} {row.mirrored}")

    def pictures(
        self, files: Files, rows: Sequence[CachedRow], view: Callable[[CachedRow], tuple[Pixels, Pixels]]
    ) -> dict[str, object]:
        """Of a PartialBatch. view: picture and condition of a row, (H, W, 3) each, where they are not kept."""
        names = tuple(map(self.named, rows))
        found = tuple(map(files.get, names))
        views = [None if kept else view(row) for row, kept in zip(rows, found)]
        conditions = [_condition(kept, seen, self._planes) for kept, seen in zip(found, views)]
        missing = [np.ascontiguousarray(seen[0].transpose(2, 0, 1)) for seen in views if seen]
        pixels = torch.from_numpy(np.stack(missing)) if missing else None
        return {"names": names, "found": found, "conditions": torch.stack(conditions), "pixels": pixels}

    def captions(self, files: Files, captions: Sequence[str]) -> dict[str, Tensors | None]:
        """Each once, as it is kept."""
        return {caption: files.get(_hash(caption)) for caption in dict.fromkeys(captions)}

    def complete(self, batch: PartialBatch) -> Batch:
        """The batch with latents and text, which are encoded where they were not kept. Raises ModelError for what is no number."""
        known = {one.name: getattr(batch, one.name) for one in fields(Batch)}
        if self.latents:
            rows = self._rows(self.latents, batch)
            mean, std = (torch.stack([row["latents"][n] for row in rows]) for n in range(2))
            hints = torch.stack([row["hint"] for row in rows]) if self.base.hints else None
            known |= {"latents": Latents(mean, std), "pixels": None, "hints": hints}
        if self.text:
            texts = self._texts(self.text, batch.heard)
            names = next(iter(texts.values())).keys()
            heard = [texts[caption] for caption in batch.captions]
            known["text"] = {name: one_below_the_other([row[name][None] for row in heard]) for name in names}
        return Batch(**known)

    def _rows(self, files: Files, batch: PartialBatch) -> list[Tensors]:
        """What belongs to each row."""
        missing = [row for row, kept in enumerate(batch.found) if not kept]
        if not missing:
            return [kept for kept in batch.found if kept]
        assert batch.pixels is not None
        device, conditions = self.base.vae.device, batch.conditions[missing]
        seen = self.base.encode_pixels(batch.pixels.to(device))
        made = {"latents": self._plain(torch.stack((seen.mean, seen.std), 1), "the VAE")}
        if self.base.hints:
            made["hint"] = self._plain(self.base.encode_conditions(conditions.to(device)), "the VAE")
        rows = [{name: tensor[n] for name, tensor in made.items()} for n in range(len(missing))]
        for row, tensors, condition in zip(missing, rows, conditions):
            files.put(batch.names[row], tensors | {"condition": fewest_planes(condition)})
        new = iter(rows)
        return [kept or next(new) for kept in batch.found]

    def _texts(self, files: Files, heard: Mapping[str, Tensors | None]) -> dict[str, Tensors]:
        """What belongs to each caption."""
        missing = [caption for caption, kept in heard.items() if not kept]
        found = {caption: kept for caption, kept in heard.items() if kept}
        for start in range(0, len(missing), self.base.captions_at_once):
            some = missing[start : start + self.base.captions_at_once]
            made = {name: self._plain(tensor, "a text encoder") for name, tensor in self.base.encode_text(some).items()}
            for n, caption in enumerate(some):
                found[caption] = {name: tensor[n] for name, tensor in made.items()}
                files.put(_hash(caption), found[caption])
        return found

    def _plain(self, tensor: Tensor, whose: str) -> Tensor:
        """On the CPU, rounded as what is kept."""
        return finite(tensor.to(self.dtype), whose).cpu()


def _condition(kept: Tensors | None, seen: tuple[Pixels, Pixels] | None, planes: int) -> Tensor:
    """(planes, H, W) uint8."""
    if kept:
        return kept["condition"].repeat_interleave(planes // len(kept["condition"]), 0)
    assert seen
    return torch.from_numpy(np.ascontiguousarray(seen[1].transpose(2, 0, 1)))


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()


def _silent(_: str) -> None:
    """Before anybody is to be told."""
