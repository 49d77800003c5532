"""What a recipe would do: rows, buckets, updates, bytes. `--dry-run` prints it, and everything that can be is checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from condprep.images.geometry import Size
from trainer.data.open import open_splits
from trainer.data.rows import Rows, spread
from trainer.data.split import Split
from trainer.data.stream import StreamedRows
from trainer.inference.export import condition_record, unsaid
from trainer.models.base import COPIED, Base
from trainer.models.families import load_base
from trainer.models.kinds import all_kinds, recorded_kinds
from trainer.models.text import CHUNK
from trainer.recipe.idle import idle_notes
from trainer.recipe.layout import CHECKPOINTS
from trainer.recipe.recipe import Data, Recipe, Text, Train
from trainer.training.checkpoint import Checkpoints, refuse_another_base
from trainer.training.folder import check_free, check_outside
from trainer.training.machine import accelerated
from trainer.training.memory import predict_memory
from trainer.training.preflight import check_room
from trainer.training.step import is_sharded
from trainer.training.validate import check_validation

MOST_TOKENS = 750  # of text.max_tokens
LOOKED_AT, MANY = 1_000, 0.05  # rows of which captions are looked at; share from which it is worth a line
SCALED = 1.25  # times that the sides of most rows are scaled
FAR = 8  # times that a side is scaled: the maps were drawn for another size altogether
UNHELD = (
    "no held-out rows: nothing is measured while training; data.validation = 0.02 in the recipe holds some out,"
    " or `condprep split DATASET --validation 0.02`"
)


@dataclass(frozen=True)
class TrainingPlan:
    """A run before it is begun. Sizes are (height, width)."""

    family: str
    kind: str | None  # of the conditions; of several all
    rows: int
    held_out: int  # rows that validation looks at
    buckets: Mapping[Size, int]  # rows of each
    resampled: int  # rows that are not at their training size
    updates: int
    batch: int  # pictures per update
    cache_bytes: int  # on disk; more by what the same folder holds of other recipes
    peak_bytes: int  # of a device, about; with one picture a forward pass where `micro_batch` is "auto"
    notes: Sequence[str]

    @property
    def epochs(self) -> float:
        return self.updates * self.batch / self.rows

    def public(self) -> dict[str, Any]:
        """As `--json` prints it."""
        buckets = {f"{width}x{height}": rows for (height, width), rows in self.buckets.items()}
        return vars(self) | {"buckets": buckets, "epochs": self.epochs, "notes": list(self.notes)}


def plan_training(recipe: Recipe) -> TrainingPlan:
    """Open the dataset and the base, check that they fit, and count. Nothing is encoded or trained.

    Raises what training would raise: DataError, ModelError, MachineError, CheckpointError.
    """
    with accelerated(recipe) as accelerator:
        return _planned(recipe, accelerator.num_processes)


def _planned(recipe: Recipe, processes: int) -> TrainingPlan:
    check_outside(recipe)
    check_free(Path(recipe.save.dir))
    train, validation = open_splits(recipe)
    checkpoints = Checkpoints(Path(recipe.save.dir) / CHECKPOINTS, recipe.save.keep)
    checkpoint, going_on = checkpoints.choose(recipe.save.resume, recipe.model_dump(mode="json"), train.fingerprint)
    base = load_base(recipe.model, recipe.text, train.rows.kinds)
    base.refuse(recipe)
    if checkpoint:
        refuse_another_base(checkpoint, base.fingerprints)
    check_room(recipe, base.new_controlnet(recipe.model.init))
    check_validation(recipe, validation)
    buckets = Counter(train.buckets)
    data, rows = recipe.data, train.rows
    condition = condition_record(data.path, rows.conditions, rows.kinds, data.resolution)
    largest = max(buckets, key=lambda size: size[0] * size[1])
    for bucket in buckets:
        base.check_size(bucket)
    micro_batch = 1 if recipe.train.micro_batch == "auto" else recipe.train.micro_batch
    return TrainingPlan(
        family=base.family,
        kind=all_kinds(train.rows.kinds),
        rows=len(train.rows),
        held_out=len(validation.rows) if validation else 0,
        buckets=dict(buckets.most_common()),
        resampled=train.resampled,
        updates=total_updates(recipe.train, len(train.rows)),
        batch=recipe.train.batch,
        cache_bytes=sum(sum(one.with_caches(base).cache_bytes().values()) for one in (train, validation) if one),
        peak_bytes=predict_memory(
            base, recipe, largest, micro_batch, processes if is_sharded(recipe.train, processes) else 1
        ).peak,
        notes=[
            *(*train.rows.notes, *going_on, *doubts(recipe, train)),
            *(held_out_note(recipe, train, validation), *unsaid(data.path, condition)),
            *cut_captions(base, train.rows, recipe.text),
        ],
    )


def held_out_note(recipe: Recipe, train: Split, validation: Split | None) -> str:
    """How many rows are held out, or that none are."""
    data, whole = recipe.data, train.rows.table.num_rows
    idle = "" if recipe.eval.rows else "nothing is validated: eval.every, or all that it would measure, is 0"
    if data.share:
        held = f"{whole - train.rows.whole:,} of {whole:,} rows are held out, by data.validation = {data.share}"
        return f"{held}; {idle}" if idle else held
    if validation:
        return f"{validation.rows.whole:,} rows are held out, in split {validation.rows.split!r}"
    return idle or UNHELD


def doubts(recipe: Recipe, train: Split) -> list[str]:
    """What can be trained and is probably not meant, with what would be."""
    found, updates = idle_notes(recipe), total_updates(recipe.train, len(train.rows))
    if recipe.data.crop == "random" and not train.resampled:
        found.append('data.crop = "random" does nothing here: every row that is known has its training size already')
    if recipe.train.schedule != "constant" and recipe.train.warmup >= updates:
        found.append(
            f"train.warmup = {recipe.train.warmup} is not shorter than the run of {updates} updates, so that the learning rate "
            f"never gets to train.lr; say train.warmup = {updates // 10}"
        )
    if recipe.data.validation == recipe.data.split and recipe.eval.rows:
        found.append(
            f'data.validation = "{recipe.data.validation}" is the split that is trained on: what is measured is how well its rows are'
            " remembered; data.validation = 0.02 holds some out"
        )
    begun, given = () if recipe.model.init == COPIED else recorded_kinds(recipe.model.init), train.rows.kinds
    if len(begun) == len(given) == 1 and begun != given and None not in (*begun, *given):
        found.append(
            f"the ControlNet that this one begins as (model.init) was trained on {begun[0]}, and the conditions are {given[0]}"
        )
    found += [*without_caption(train.rows), *named_alike(train.rows)]
    return [*found, *scaled(recipe.data, train)]


def scaled(data: Data, train: Split) -> Iterator[str]:
    """That most rows, or some of them far, are not at the size that is trained."""
    scales = [train.transform.place(size).scale for size in train.known_sizes]
    every, usual = [scale for both in scales for scale in both], median(map(max, scales))
    remedy = (
        "and their maps with them; build the dataset at the size that is trained: condprep build ..."
        f" --resolution {data.resolution} --fit {data.fit}"
    )
    if SCALED <= usual < FAR or 1 / FAR < usual <= 1 / SCALED:
        how = f"enlarged {usual:.2g} times" if usual > 1 else f"shrunk {1 / usual:.2g} times"
        yield f"at data.resolution = {data.resolution} most rows are {how}, {remedy}, or train at that of the dataset"
    for far, what in ((max(every) >= FAR, "enlarged"), (min(every) <= 1 / FAR, "shrunk")):
        if far:
            yield f"there are rows that are {what} {FAR} times or more, {remedy}"


def without_caption(rows: Rows) -> Iterator[str]:
    """That many rows have no caption, by some of them; of a stream nothing is looked at."""
    seen = [] if isinstance(rows, StreamedRows) else spread(range(len(rows)), LOOKED_AT)
    empty = sum(not any(caption.strip() for caption in rows.captions(number)) for number in seen)
    if empty > MANY * len(seen):
        yield (
            f"{empty:,} of {len(seen):,} rows that were looked at have no caption: they are learned as those that data.caption_dropout"
            " drops, beside these"
        )


def cut_captions(base: Base, rows: Rows, text: Text) -> Iterator[str]:
    """That many captions are longer than what is heard of them, by some of the rows; of a stream nothing is looked at."""
    seen = [] if isinstance(rows, StreamedRows) else spread(range(len(rows)), LOOKED_AT)
    captions = [caption for number in seen for caption in rows.captions(number)]
    cut = base.lengths_beyond(captions)
    if len(cut) > MANY * len(captions):
        enough = min(MOST_TOKENS, max(text.max_tokens, -(-max(cut) // CHUNK) * CHUNK))
        remedy = f": say text.max_tokens = {enough}" if enough > text.max_tokens else ""
        yield (
            f"{len(cut):,} of {len(captions):,} captions that were looked at are longer than what is heard of them, up to {max(cut):,}"
            f" tokens, and cut{remedy}"
        )


def named_alike(rows: Rows) -> Iterator[str]:
    """That many rows have a key that is another one's, too."""
    if rows.names.key is None or isinstance(rows, StreamedRows):
        return
    keys = rows.table.column(rows.names.key)
    known = keys.take(pa.array(rows.numbers)) if len(rows) < len(keys) else keys
    alike = len(known) - pc.count_distinct(known, mode="all").as_py()
    if alike > MANY * len(known):
        yield (
            f"{len(known):,} rows have {len(known) - alike:,} keys (column {rows.names.key!r}): in an epoch rows of one key get the same"
            " noise at the same timestep; give each a key of its own, or take the column away"
        )


def total_updates(train: Train, rows: int) -> int:
    """`steps`, or as many updates as `epochs` passes over the rows take."""
    return train.steps or math.ceil(train.epochs * rows / train.batch)
