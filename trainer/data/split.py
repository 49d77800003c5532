"""A split of a dataset, opened, checked, and read as batches: from its caches, or decoded on the fly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condprep.errors import Rejected
from condprep.images.decode import Pixels
from condprep.images.geometry import Size
from condprep.runtime.own import remove_tree
from trainer.data.cache import (
    CachedRow,
    LatentCache,
    TextCache,
    distinct,
    lay_out,
    one_run,
    stored_bytes,
)
from trainer.data.encoded import Encoded, Files, PartialBatch, Room
from trainer.data.kept import cache_folder, check_free, latents_folder, text_folder
from trainer.data.planes import expected_planes
from trainer.data.rows import Rows, refuse_changed
from trainer.data.sampler import Chance, SampledRow, given, shuffled
from trainer.data.stream import StreamedRows, StreamedSizes
from trainer.data.transform import Transform, planes, source_of
from trainer.errors import DataError
from trainer.models.base import Base
from trainer.recipe.recipe import Recipe
from trainer.types import Batch, ProcessGroup, Say, ShowProgress, torch_dtype

PLAIN = Chance(mirror=1.0, drop=1.0, caption=0.0, top=0.5, left=0.5, order=0.0, conditions=1.0)  # nothing is left to it


@dataclass(frozen=True)
class Split:
    """The rows of one split, opened and checked. `with_caches` and `fill` make it ready to give batches."""

    recipe: Recipe
    rows: Rows
    transform: Transform
    sizes: Sequence[Size]  # of each row as stored, (height, width)
    fingerprint: str  # of the rows' content
    training: bool  # rows are mirrored, cropped and lose their captions by chance
    base: Base | None = None
    latents: LatentCache | None = None
    text: TextCache | None = None
    encoded: Encoded | None = None  # of rows that are streamed
    told: str | None = None  # which of several kinds its conditions are, as a ControlNet has to be told

    @cached_property
    def known_sizes(self) -> Sequence[Size]:
        """Those that are known before the first update: of each row, or of a stream those of its first file."""
        rows = self.rows
        return self.sizes[: rows.shards.counts[rows.shards.first]] if isinstance(rows, StreamedRows) else self.sizes

    @cached_property
    def buckets(self) -> list[Size]:
        """What each row becomes whose size is known, (height, width)."""
        return [self.transform.place(size).canvas for size in self.known_sizes]

    def bucket(self, number: int) -> Size:
        """What a row becomes."""
        return self.transform.place(self.sizes[number]).canvas

    @property
    def resampled(self) -> int:
        """How many rows whose size is known are not at their training size."""
        return sum(self.transform.place(size).changes(size) for size in self.known_sizes)

    def captions(self) -> list[str]:
        """Every one that occurs, once, and the empty one."""
        return distinct(caption for number in range(len(self.rows)) for caption in self.rows.captions(number))

    @property
    def each(self) -> list[Split]:
        """Its rows as they are looked at: one kind of conditions at a time. Where there is one, itself."""
        return [self] if len(self.rows.kinds) == 1 else [self._alone(n) for n in range(len(self.rows.kinds))]

    def _alone(self, number: int) -> Split:
        rows = self.rows.alone(number)
        recipe = self.recipe.model_copy(update={"data": self.recipe.data.alone(rows.conditions[0])})
        transform = replace(self.transform, kinds=rows.kinds)
        return replace(self, recipe=recipe, rows=rows, transform=transform, told=rows.kind)

    def view(self, number: int) -> tuple[Pixels, Pixels, str]:
        """Picture and condition, (H, W, 3) uint8 each, and the first caption: the row as a person looks at it."""
        row = self.rows[number]
        return *self.transform(row), row.captions[0]

    def batch(self, sampled: Sequence[SampledRow]) -> Batch:
        """Rows of one bucket. Raises DataError for a picture that cannot be decoded."""
        assert self.base is not None
        seed, data = self.recipe.train.seed, self.recipe.data
        chances = [Chance.of(row, seed) if self.training else PLAIN for row in sampled]
        rows = [CachedRow(row.number, chance.mirror < data.hflip) for row, chance in zip(sampled, chances)]
        captions = [self._caption(row.number, chance) for row, chance in zip(sampled, chances)]
        placed = [self._time_ids(row.number, chance) for row, chance in zip(sampled, chances)]
        batch, kinds = PartialBatch if self.encoded else Batch, len(self.rows.kinds)
        return batch(
            keys=[self.rows.key(row.number) for row in sampled],
            epochs=[row.epoch for row in sampled],
            captions=captions,
            time_ids=None if placed[0] is None else torch.tensor(placed),
            mask=self._masks(rows, chances) if self.rows.names.mask else None,
            given=[given(kinds, chance.conditions) for chance in chances] if kinds > 1 else (),
            **self._pictures(rows, chances),
            **self._texts(captions),
        )

    def complete(self, batch: Batch) -> Batch:
        """A batch of this split, with what is kept of rows that are streamed. To be called where the base's device is."""
        return self.encoded.complete(batch) if self.encoded and isinstance(batch, PartialBatch) else batch

    def _pictures(self, rows: Sequence[CachedRow], chances: Sequence[Chance]) -> dict[str, Any]:
        """Conditions, and latents or else pixels, as a batch has them."""
        if self.latents:
            latents, conditions = self.latents.read(rows)
            return {"latents": latents, "conditions": conditions, "hints": self.latents.read_hints(rows)}
        if self.encoded and self.encoded.latents:
            return self.encoded.pictures(self.encoded.latents, rows, self._decoded)
        views = [self._decoded(row, (chance.top, chance.left)) for row, chance in zip(rows, chances)]
        pixels, conditions = (planes(side) for side in zip(*views))
        return {"pixels": pixels, "conditions": conditions}

    def _texts(self, captions: Sequence[str]) -> dict[str, Any]:
        """What is kept of the captions, as a batch has it."""
        if self.encoded and self.encoded.text:
            return {"heard": self.encoded.captions(self.encoded.text, captions)}
        return {"text": self.text.read(captions)} if self.text else {}

    def _caption(self, number: int, chance: Chance) -> str:
        if chance.drop < self.recipe.data.caption_dropout:
            return ""
        chosen, text = self.rows.caption(number, chance.caption), self.recipe.text
        return shuffled(chosen, text.keep, chance.order) if text.shuffle and self.training else chosen

    def _time_ids(self, number: int, chance: Chance) -> Sequence[int] | None:
        assert self.base is not None
        placement = self.transform.place(self.sizes[number], (chance.top, chance.left))
        source, (above, beside) = source_of(self.rows.transform(number), self.sizes[number])
        (top, left, _, _), (down, right) = placement.box, placement.scale
        crop = round((above + top) * down), round((beside + left) * right)
        return self.base.time_ids(source, crop, placement.canvas)

    def _decoded(self, row: CachedRow, at: tuple[float, float] = (0.5, 0.5)) -> tuple[Pixels, Pixels]:
        with self._named(row):
            return self.transform(self.rows[row.number], row.mirrored, at)

    def _masks(self, rows: Sequence[CachedRow], chances: Sequence[Chance]) -> Tensor:
        """(B, 1, h, w) float32, 0..1: what each latent counts. They are small, and read anew each time."""
        assert self.base is not None
        masks, factor = [], self.base.factor
        for row, chance in zip(rows, chances):
            with self._named(row):
                mask = self.transform.mask(self.rows.mask(row.number), row.mirrored, (chance.top, chance.left))
            height, width = mask.shape[0] // factor, mask.shape[1] // factor
            latents = mask.reshape(height, factor, width, factor, 3)
            masks.append(latents.mean((1, 3, 4), dtype=np.float32) / 255)
        return torch.from_numpy(np.stack(masks)[:, None])

    @contextmanager
    def _named(self, row: CachedRow) -> Iterator[None]:
        """What is rejected, as a DataError that names the row."""
        try:
            yield
        except Rejected as rejected:
            raise DataError(f"row {self.rows.key(row.number)} of {self.recipe.data.path}: {rejected.reason}") from None

    def with_caches(self, base: Base) -> Split:
        """The same with its base, and its caches as the recipe wants them: `fill` makes what they lack."""
        if isinstance(self.rows, StreamedRows):
            return replace(self, base=base, encoded=self._encoded(base))
        return replace(self, base=base, latents=self._latent_cache(base), text=self._text_cache(base))

    def fill(self, group: ProcessGroup, progress: ShowProgress, say: Say = lambda _: None) -> None:
        """Encode what is not cached yet, on the base's device; another run that fills the same cache is waited for.

        say: is told what is made again because it is damaged. Raises MachineError where the disk has no room, ModelError, DataError, OSError.
        """
        assert self.base is not None
        base = self.base
        if self.encoded:
            self.encoded.begin(group, say)
            return
        with one_run(cache_folder(self.recipe), group):
            self._check_room()
            if self.latents:
                self._fill_latents(self.latents, base, group, progress, say)
            if self.text:
                self.text.build(base.encode_text, group, partial(progress, "text"), say, base.captions_at_once)

    def _fill_latents(
        self, latents: LatentCache, base: Base, group: ProcessGroup, progress: ShowProgress, say: Say
    ) -> None:
        """Raises DataError where the dataset has changed meanwhile; then nothing is kept that could be of other rows."""
        made = latents.build(
            lambda pixels: base.encode_pixels(pixels.to(base.vae.device)),
            self._decoded,
            group,
            lambda done, total: progress(f"latents of {self.rows.called}", done, total),
            say,
            self.recipe.data.num_workers,
        )
        try:
            if made:
                refuse_changed(self.rows, self.recipe.data, self.recipe.text)
        except DataError:
            remove_tree(latents.folder, ignore_errors=True)
            raise

    def cache_bytes(self) -> dict[str, int]:
        """What latents (with conditions) and text take on disk, but for the files' headers. {} without a cache.

        Of a stream it is as much as rows like those of its first file would take, with a caption each, and no more than the limit.
        """
        assert self.base is not None
        sizes, itemsize = {}, torch_dtype(self.recipe.cache.dtype).itemsize
        if self.latents or (self.encoded and self.encoded.latents):
            deep = (2 + self.base.hints * len(self.rows.kinds)) * self.base.latent_shape((8, 8))[0] * itemsize
            pixels = sum(height * width for height, width in self.buckets) * len(self.rows) // len(self.buckets)
            pixels *= 1 + self._mirrors
            sizes["latents"] = pixels * expected_planes(self.rows.kinds) + pixels // self.base.factor**2 * deep
        if self.text or (self.encoded and self.encoded.text):
            longest = max(self.text.captions, key=len) if self.text else ""
            values = sum(tensor.numel() for tensor in self.base.encode_text([longest]).values())
            sizes["text"] = (len(self.text.captions) if self.text else len(self.rows)) * values * itemsize
        return {"encoded": min(sum(sizes.values()), self.encoded.room.bytes)} if self.encoded else sizes

    def _check_room(self) -> None:
        """Raises MachineError where what is missing does not fit onto the disk."""
        caches = {"latents": self.latents, "text": self.text}
        missing = {name for name, known in caches.items() if known and known.missing}
        wanted = sum(size for name, size in self.cache_bytes().items() if name in missing) if missing else 0
        there = sum(stored_bytes(known.folder) for name, known in caches.items() if known and name in missing)
        check_free(cache_folder(self.recipe), wanted - there)

    def _latent_cache(self, base: Base) -> LatentCache | None:
        recipe = self.recipe
        if not recipe.cache.latents:
            return None
        folder, kinds = self._latents_folder(base, rows=self.fingerprint), len(self.rows.kinds)
        shards = lay_out(self.buckets, self._mirrors, kinds)
        return LatentCache(folder, shards, recipe.cache.dtype, recipe.cache.check, base.hints, kinds)

    def _text_cache(self, base: Base) -> TextCache | None:
        recipe = self.recipe
        if not recipe.cache.text:
            return None
        captions = self.captions()
        folder = text_folder(recipe, base, captions=captions)
        return TextCache(folder, captions, recipe.cache.dtype, recipe.cache.check)

    def _encoded(self, base: Base) -> Encoded | None:
        """What is kept of rows that are streamed."""
        cache, room = self.recipe.cache, Room(self.recipe.cache.limit, cache_folder(self.recipe))
        assert isinstance(self.sizes, StreamedSizes)
        latents = Files(self._latents_folder(base, "-rows"), room) if cache.latents else None
        text = Files(text_folder(self.recipe, base, "-captions"), room) if cache.text else None
        if not (latents or text):
            return None
        return Encoded(base, cache.dtype, latents, text, self.sizes.fingerprint, room, len(self.rows.kinds))

    @property
    def _mirrors(self) -> bool:
        return self.training and self.recipe.data.hflip > 0

    def _latents_folder(self, base: Base, form: str = "", **content: str) -> Path:
        keypoints = self.rows.names.keypoints is not None
        return latents_folder(self.recipe, base, form, self.rows.kinds, self._mirrors, keypoints, **content)
