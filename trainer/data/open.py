"""The splits of a dataset that a recipe asks for, opened and checked."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.held_out import has_validation, refuse_second_share
from trainer.data.kept import cache_folder, kept_in
from trainer.data.rows import Rows, open_rows, splits
from trainer.data.scan import scan
from trainer.data.split import Split
from trainer.data.stream import StreamedSizes, fingerprint, open_stream
from trainer.data.transform import Transform, check_mirror
from trainer.errors import DataError
from trainer.recipe.recipe import Data, Recipe
from trainer.types import ONE_PROCESS, ProcessGroup, ShowProgress


def open_split(
    recipe: Recipe,
    name: str | float,
    *,
    training: bool,
    most: int = 0,
    progress: ShowProgress = lambda *_: None,
    kinds: Sequence[str | None] = (),
) -> Split:
    """A split, its rows looked at; or, by a share, those of `data.split` that it holds out.

    most: use no more rows than that, evenly spread; 0: all. kinds: of the conditions, where the training has told them before.

    Raises DataError where the split is missing or a row is not as it must be, MachineError where what was found cannot
    be kept.
    """
    data, kept = recipe.data, cache_folder(recipe)
    if data.streaming and name == data.split:
        return _open_streamed(recipe, training, progress)
    with kept_in(kept):
        rows = open_rows(data.model_copy(update={"max_rows": most}), name, kept, recipe.text, kinds)
        if not len(rows):
            raise DataError(f"{data.path} has no rows in split {name!r}")
        transform = _transform(data, rows, training)
        found = scan(rows, data.path, kept, lambda done, total: progress(f"checking {rows.called}", done, total))
    return Split(recipe, rows, transform, found.sizes, found.fingerprint, training)


def _open_streamed(recipe: Recipe, training: bool, progress: ShowProgress) -> Split:
    """The rows of `data.split`, of which the first file is looked at. Raises as `open_split` does."""
    data, kept = recipe.data, cache_folder(recipe)
    with kept_in(kept):
        rows = open_stream(data, recipe.text, kept, progress)
        transform, sizes = _transform(data, rows, training), StreamedSizes(rows, kept)
        sizes.begin([rows.shards.first])
    return Split(recipe, rows, transform, sizes, fingerprint(rows, recipe.text), training)


def _transform(data: Data, rows: Rows, training: bool) -> Transform:
    """The way of a split's rows. Raises DataError for conditions that are to be mirrored, and cannot be."""
    for kind in rows.kinds if training and data.hflip else ():
        check_mirror(kind, rows.names.keypoints is not None)
    return Transform(data.resolution, data.fit, rows.kinds, random=training and data.crop == "random")


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
    if held_out and has_validation(recipe.data, splits(recipe.data, recipe.text)):
        name, kinds = recipe.data.validation, train.rows.kinds
        validation = open_split(recipe, name, training=False, most=held_out, progress=progress, kinds=kinds)
    if not group.rank:
        group.barrier()
    return train, validation
