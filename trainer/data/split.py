"""A split of a dataset, opened, checked, and read as batches: from its caches, or decoded on the fly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

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
    keyed,
    lay_out,
    one_run,
    stored_bytes,
)
from trainer.data.held_out import refuse_second_share
from trainer.data.old_caches import cache_name, make_room
from trainer.data.rows import Rows, open_rows, refuse_changed, splits
from trainer.data.sampler import Chance, SampledRow, shuffled
from trainer.data.scan import scan
from trainer.data.transform import NEAREST, Transform, check_mirror, source_of
from trainer.errors import DataError, MachineError, readable_bytes
from trainer.models.base import Base
from trainer.recipe.recipe import Recipe
from trainer.types import ONE_PROCESS, Batch, ProcessGroup, Say, ShowProgress

GREY = ("canny", "scribble", "softedge", "lineart", "depth")  # kinds whose maps are cached as one plane
PLAIN = Chance(mirror=1.0, drop=1.0, caption=0.0, top=0.5, left=0.5, order=0.0)  # nothing is left to chance


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

    @cached_property
    def buckets(self) -> list[Size]:
        """What each row becomes, (height, width)."""
        return [self.transform.place(size).canvas for size in self.sizes]

    @property
    def resampled(self) -> int:
        """How many rows are not at their training size."""
        return sum(self.transform.place(size).changes(size) for size in self.sizes)

    def captions(self) -> list[str]:
        """Every one that occurs, once, and the empty one."""
        return distinct(caption for number in range(len(self.rows)) for caption in self.rows.captions(number))

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
        pixels = latents = hints = None
        if self.latents:
            latents, conditions = self.latents.read(rows)
            hints = self.latents.read_hints(rows)
        else:
            views = [self._decoded(row, (chance.top, chance.left)) for row, chance in zip(rows, chances)]
            pixels, conditions = (_planes(side) for side in zip(*views))
        return Batch(
            keys=[self.rows.key(row.number) for row in sampled],
            epochs=[row.epoch for row in sampled],
            captions=captions,
            conditions=conditions,
            latents=latents,
            pixels=pixels,
            hints=hints,
            text=self.text.read(captions) if self.text else {},
            time_ids=None if placed[0] is None else torch.tensor(placed),
            mask=self._masks(rows, chances) if self.rows.names.mask else None,
        )

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
        return replace(self, base=base, latents=self._latent_cache(base), text=self._text_cache(base))

    def fill(self, group: ProcessGroup, progress: ShowProgress, say: Say = lambda _: None) -> None:
        """Encode what is not cached yet, on the base's device; another run that fills the same cache is waited for.

        say: is told what is made again because it is damaged. Raises MachineError where the disk has no room, ModelError, DataError, OSError.
        """
        assert self.base is not None
        base = self.base
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
        """What latents (with conditions) and text take on disk, but for the files' headers. {} without a cache."""
        assert self.base is not None
        sizes = {}
        if self.latents:
            planes = 1 if self.rows.kind in GREY else 3
            deep = (2 + self.base.hints) * self.base.latent_shape((8, 8))[0] * self.latents.dtype.itemsize
            pixels = sum(len(shard.rows) * shard.size[0] * shard.size[1] for shard in self.latents.shards)
            sizes["latents"] = pixels * planes + pixels // self.base.factor**2 * deep
        if self.text:
            values = sum(tensor.numel() for tensor in self.base.encode_text([""]).values())
            sizes["text"] = len(self.text.captions) * values * self.text.dtype.itemsize
        return sizes

    def _check_room(self) -> None:
        """Raises MachineError where what is missing does not fit onto the disk."""
        caches = {"latents": self.latents, "text": self.text}
        missing = {name for name, known in caches.items() if known and known.missing}
        wanted = sum(size for name, size in self.cache_bytes().items() if name in missing) if missing else 0
        there = sum(stored_bytes(known.folder) for name, known in caches.items() if known and name in missing)
        folder, lacking = cache_folder(self.recipe), wanted - there
        free = shutil.disk_usage(folder).free
        if lacking > free:
            free = make_room(folder, lacking)
        if lacking > free:
            raise MachineError(
                f"the cache in {folder} needs {readable_bytes(lacking)} more, and its disk has {readable_bytes(free)}: "
                "name a folder elsewhere with cache.dir, or say cache.latents = false"
            )

    def _latent_cache(self, base: Base) -> LatentCache | None:
        recipe, mirror = self.recipe, self.training and self.recipe.data.hflip > 0
        if not recipe.cache.latents:
            return None
        folder = keyed(
            cache_folder(recipe),
            cache_name("latents"),
            rows=self.fingerprint,
            vae=base.fingerprints["vae"],
            precision=str(base.vae.dtype),
            dtype=recipe.cache.dtype,
            place=[recipe.data.resolution, recipe.data.fit, self.transform.kind in NEAREST],
            mirror=mirror and [self.rows.kind, self.rows.names.keypoints is not None],
            **({"hints": True} if base.hints else {}),
        )
        return LatentCache(folder, lay_out(self.buckets, mirror), recipe.cache.dtype, recipe.cache.check, base.hints)

    def _text_cache(self, base: Base) -> TextCache | None:
        recipe = self.recipe
        if not recipe.cache.text:
            return None
        captions = self.captions()
        folder = keyed(
            cache_folder(recipe),
            cache_name("text"),
            captions=captions,
            encoders=base.fingerprints["text"],
            precision=str(base.text_encoders[0].dtype),
            dtype=recipe.cache.dtype,
        )
        return TextCache(folder, captions, recipe.cache.dtype, recipe.cache.check)


def open_split(
    recipe: Recipe, name: str | float, *, training: bool, most: int = 0, progress: ShowProgress = lambda *_: None
) -> Split:
    """A split, its rows looked at; or, by a share, those of `data.split` that it holds out.

    most: use no more rows than that, evenly spread; 0: all.

    Raises DataError where the split is missing or a row is not as it must be, MachineError where what was found cannot
    be kept.
    """
    data, kept = recipe.data, cache_folder(recipe)
    with _kept_in(kept):
        rows = open_rows(data.model_copy(update={"max_rows": most}), name, kept, recipe.text)
        if not len(rows):
            raise DataError(f"{data.path} has no rows in split {name!r}")
        if training and data.hflip:
            check_mirror(rows.kind, rows.names.keypoints is not None)
        found = scan(rows, data.path, kept, lambda done, total: progress(f"checking {rows.called}", done, total))
    transform = Transform(data.resolution, data.fit, rows.kind, random=training and data.crop == "random")
    return Split(recipe, rows, transform, found.sizes, found.fingerprint, training)


def open_splits(
    recipe: Recipe, group: ProcessGroup = ONE_PROCESS, progress: ShowProgress = lambda *_: None
) -> tuple[Split, Split | None]:
    """The training rows, and the held-out ones that validation looks at (None without any).

    The first process looks at the rows, the others take what it has written down. Raises DataError, also where there
    are fewer rows than an update takes.
    """
    if recipe.data.share:
        refuse_second_share(recipe.data, splits(recipe.data, recipe.text))
    if group.rank:
        group.barrier()
    train = open_split(recipe, recipe.data.split, training=True, most=recipe.data.max_rows, progress=progress)
    if len(train.rows) < recipe.train.batch:
        few = max(1, len(train.rows) // 4)
        raise DataError(
            f"{recipe.data.path} has {len(train.rows)} rows to train on, fewer than train.batch = {recipe.train.batch}; "
            f"add pictures, or take a smaller batch: --set train.batch={few} --set train.micro_batch={few}"
        )
    held_out = recipe.eval.rows
    validation = None
    if held_out and _has_validation(recipe):
        alike = recipe.data.model_copy(update={"kind": train.rows.kind or "auto"})
        also = recipe.model_copy(update={"data": alike})
        validation = open_split(also, recipe.data.validation, training=False, most=held_out, progress=progress)
    if not group.rank:
        group.barrier()
    return train, validation


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Raises MachineError where the cache's folder may not be written."""
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(str(folder)):
            raise
        raise MachineError(
            f"{error.filename}: {error.strerror}; name another folder for the cache in cache.dir"
        ) from None


def _has_validation(recipe: Recipe) -> bool:
    """Raises DataError for a split that was named and is not there; the default may be missing."""
    name, default = recipe.data.validation, type(recipe.data).model_fields["validation"].default
    if not isinstance(name, str):
        return True  # its rows are of the split that is trained on
    known = splits(recipe.data, recipe.text) if name else []
    if name and name != default and name not in known:
        raise DataError(f"data.validation = {name!r}, but {recipe.data.path} has {', '.join(known)}")
    return name in known


def cache_folder(recipe: Recipe) -> Path:
    """`[cache] dir`, else beside the dataset: ds/ -> ds.cache; of a dataset on the Hub in the current folder."""
    if recipe.cache.dir:
        return Path(recipe.cache.dir)
    path = Path(os.path.abspath(recipe.data.path))
    return (
        path.with_name(f"{path.name}.cache") if path.exists() else Path(recipe.data.path.replace("/", "_") + ".cache")
    )


def _planes(pixels: Sequence[Pixels]) -> Tensor:
    """B of (H, W, 3) -> (B, 3, H, W); by numpy, as the caches do it."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))
