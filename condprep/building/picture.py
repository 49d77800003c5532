"""A picture's way from its source to a finished row.

    read -> decode -> fit -> encode      worker threads, a picture at a time, together with filters such as canny
    batch of equal shape -> device       one thread: every network sees the same tensor, the picture as it is stored
    maps -> encode                       worker threads

Everything is pulled by the consumer and a bounded number of pictures is under way, so memory does not grow with the
dataset. Batches are formed in plan order within a shard: which pictures share one does not depend on timing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from condprep.annotators.batches import as_batch, by_shape, to_device
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Result, Runner
from condprep.building.options import BuildOptions
from condprep.dataset.columns import further_column
from condprep.dataset.shards import Row
from condprep.errors import Rejected
from condprep.images.decode import decode
from condprep.images.encode import encode_map, encode_picture
from condprep.images.geometry import Placement, compose, pad, resize
from condprep.runtime.concurrency import in_order, lots, ordered_map
from condprep.runtime.opencv import one_thread_each
from condprep.sources.base import Source
from condprep.types import IMPORTED, Entry, Reject, Sample

if TYPE_CHECKING:
    from condprep.building.import_maps import Imported

PER_TASK = 4  # pictures that a thread does before it hands them on: handing on takes a fiftieth of a picture's time
ENCODED_AHEAD = 64  # finished rows for each thread: none needs to stop while a shard goes onto the disk
PIXELS_AHEAD = 16  # the same where the pictures wait as pixels, for a network


@dataclass(frozen=True, slots=True)
class Work:
    """One input on its way."""

    number: int  # 0, 1, 2, ... in the order in which the rows are wanted
    shard: int
    entry: Entry


@dataclass(slots=True)
class Prepared:
    """A picture that was read and fitted, and what is known of its row so far."""

    key: str  # sha256 of the source bytes
    rgb: np.ndarray  # (*content, 3) uint8: as fitted for the filters, then as stored for the networks
    placement: Placement
    columns: dict[str, Any]
    untouched: bool
    captioned: bool
    maps: dict[str, np.ndarray] = field(default_factory=dict)  # column -> (h, w) or (h, w, 3) uint8, not yet encoded


Step = tuple[Work, Prepared | Reject]


def further_columns(
    column: str, annotator: Annotator, values: Mapping[str, Any], placement: Placement
) -> dict[str, Any]:
    """What an annotator returned beside its map, by its columns in the dataset; with the canvas of the stored picture."""
    if "keypoints" in values and placement.offset != (0, 0):
        from condprep.annotators.openpose.keypoints import moved

        values = {**values, "keypoints": moved(values["keypoints"], *placement.offset)}
    if "depth_raw" in values and placement.content != placement.canvas:
        from condprep.annotators.depth.annotator import padded

        values = {**values, "depth_raw": padded(values["depth_raw"], placement)}
    return {further_column(column, annotator.name, name): value for name, value in values.items()}


class Pipeline:
    """Turns work into rows or rejects, in order. `annotators`: column of a map -> its annotator."""

    def __init__(
        self,
        source: Source,
        options: BuildOptions,
        annotators: Mapping[str, Annotator],
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        """batch_size: pictures of 512 x 512 px in a call of the networks; more of smaller ones, fewer of larger ones."""
        self.source, self.options, self.workers = source, options, workers
        self.geometry = options.geometry
        self.annotators = annotators
        made = {column: a for column, a in annotators.items() if a.name != IMPORTED}
        self.imported = cast("Imported | None", next((a for a in annotators.values() if a.name == IMPORTED), None))
        self.filters = {column: Runner(a) for column, a in made.items() if a.batch_size == 1}
        self.networks = {column: Runner(a) for column, a in made.items() if a.batch_size > 1}
        self.batch_size = batch_size

    def run(self, work: Iterable[Work]) -> Generator[tuple[Work, Row | Reject]]:
        """Every piece of work with what became of it. Close the generator to stop early."""
        with one_thread_each():
            yield from self._run(work)

    def _run(self, work: Iterable[Work]) -> Generator[tuple[Work, Row | Reject]]:
        pool = ThreadPoolExecutor(self.workers, "condprep-worker")
        device = ThreadPoolExecutor(1, "condprep-device")
        per_task, ahead = self._under_way()
        try:
            tasks = ordered_map(pool, self._prepare_all, lots(work, per_task), ahead // per_task)
            steps: Iterator[Step] = chain.from_iterable(tasks)
            if self.networks:
                annotated = chain.from_iterable(ordered_map(device, self._annotate, self._batches(steps), 2))
                steps = in_order(ordered_map(pool, self._encode, annotated, ahead), lambda step: step[0].number)
            yield from ((item, self._outcome(state)) for item, state in steps)
        finally:
            pool.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _under_way(self) -> tuple[int, int]:
        """Pictures that a thread does before it hands them on, and pictures under way at most."""
        waiting = 2 * self.batch_size * bool(self.networks)
        if self.geometry.fit == "keep":  # then pictures may be huge
            return 1, self.workers + waiting
        return PER_TASK, (PIXELS_AHEAD if self.networks else ENCODED_AHEAD) * self.workers + waiting

    def _prepare_all(self, some: Sequence[Work]) -> list[Step]:
        return [self._prepare(work) for work in some]

    def _prepare(self, work: Work) -> Step:
        """Read, decode, fit, encode, and run the filters: all that needs no other picture."""
        key = None
        try:
            if work.entry.problem:
                raise Rejected("source", work.entry.problem)
            sample = self.source.read(work.entry)
            key = sample.columns["key"] if sample.columns else sha256(sample.data).hexdigest()
            prepared = self._fit(work.entry, key, sample)
            for column, runner in self.filters.items():
                with runner.guarded():
                    drawn = runner.draw(prepared.rgb, key)
                self._take(prepared, column, drawn)
            step = self._encode((work, prepared))
            if self.networks:
                prepared.rgb = self._as_stored(prepared)
            else:
                del prepared.rgb  # its memory is the next picture's
            return step
        except Rejected as rejected:
            return work, Reject(work.entry.name, rejected.stage, rejected.reason, key)

    def _fit(self, entry: Entry, key: str, sample: Sample) -> Prepared:
        """Decode and place the picture, and fill the columns that are known before annotation."""
        options, geometry = self.options, self.geometry
        picture = decode(
            sample.data,
            max_pixels=options.max_pixels,
            allow_truncated=options.allow_truncated,
            min_size=geometry.smallest if options.fast_decode else None,
        )
        decoded = (picture.rgb.shape[0], picture.rgb.shape[1])
        placement = geometry.place(picture.size)
        untouched = picture.pristine and not placement.changes(picture.size)
        if decoded != picture.size:
            placement = geometry.place(decoded)
        came = self.imported.row(sample, picture, placement, options.max_pixels) if self.imported else {}
        rgb = resize(picture.rgb, placement)
        stored = sample.data if untouched else self._encode_picture(pad(rgb, placement))
        text = entry.text if entry.text is not None else sample.text
        columns = {
            "image": {"bytes": stored, "path": None},
            "text": (text[0] if text else "") if options.captions == "first" else list(text) or [""],
            "key": key,
            "source": entry.name,
            "width": placement.canvas[1],
            "height": placement.canvas[0],
            "transform": compose(placement, decoded, picture.size),
        }
        return Prepared(key, rgb, placement, dict(sample.columns or columns | came), untouched, captioned=any(text))

    def _encode_picture(self, rgb: np.ndarray) -> bytes:
        return encode_picture(rgb, self.options.image_format, self.options.image_quality)

    def _as_stored(self, picture: Prepared) -> np.ndarray:
        """What a reader of the dataset sees, (*content, 3) uint8: a JPEG has moved the values by a few levels."""
        if picture.untouched or self.options.image_format == "png":
            return picture.rgb
        placement = picture.placement
        (top, left), (height, width) = placement.offset, placement.content
        whole = decode(picture.columns["image"]["bytes"], max_pixels=placement.canvas[0] * placement.canvas[1]).rgb
        return np.ascontiguousarray(whole[top : top + height, left : left + width])

    def _batches(self, steps: Iterable[Step]) -> Iterator[list[Step]]:
        """Pictures of one shard and shape, as many as make up a reference batch; rejects go alone."""

        def pixels(step: Step) -> np.ndarray | None:
            return None if isinstance(step[1], Reject) else step[1].rgb

        for _, of_shard in groupby(steps, lambda step: step[0].shard):
            yield from by_shape(of_shard, pixels, self.batch_size)

    def _annotate(self, batch: list[Step]) -> list[Step]:
        """Run every network on pictures of one shape, copied to the device once."""
        pictures = [state for _, state in batch if isinstance(state, Prepared)]
        if not pictures:
            return batch
        failed: dict[str, Rejected] = {}
        keys = [picture.key for picture in pictures]
        rgb = to_device(as_batch([picture.rgb for picture in pictures]), self._device())
        for column, runner in self.networks.items():
            for picture, result in zip(pictures, runner(rgb, keys)):
                try:
                    self._take(picture, column, result)
                except Rejected as rejected:
                    failed[picture.key] = rejected
        return [
            (work, Reject(work.entry.name, failed[key].stage, failed[key].reason, key) if key in failed else state)
            for (work, state), key in zip(batch, keys)
        ]

    def _device(self) -> str:
        return next(iter(self.networks.values())).annotator.device

    def _take(self, picture: Prepared, column: str, result: Result) -> None:
        """An annotator's result into the picture's row. Raises the Rejected that it may be."""
        if isinstance(result, Rejected):
            raise result
        picture.maps[column], further = result
        picture.columns.update(further_columns(column, self.annotators[column], further, picture.placement))

    def _encode(self, step: Step) -> Step:
        """Encode the maps that are there, and forget their pixels."""
        state = step[1]
        if isinstance(state, Prepared):
            for column, pixels in state.maps.items():
                if column == self.options.condition:
                    state.columns.setdefault("empty", not pixels.any())
                encoded = encode_map(pad(pixels, state.placement), self.annotators[column].binary)
                state.columns[column] = {"bytes": encoded, "path": None}
            state.maps.clear()
        return step

    def _outcome(self, state: Prepared | Reject) -> Row | Reject:
        if isinstance(state, Reject):
            return state
        condition = self.options.condition
        if "conditioning_image" not in state.columns:
            state.columns["conditioning_image"] = state.columns[condition]
            if len(self.annotators) == 1:
                del state.columns[condition]
        if state.columns["empty"] and self.options.drop_empty:
            reason = f"empty map: {self.annotators[condition].name} found nothing"
            return Reject(state.columns["source"], "annotate", reason, state.key)
        split = "validation" if int(state.key[:16], 16) < self.options.validation * 2**64 else "train"
        return Row(state.columns, split, max(state.placement.scale) > 1, state.untouched, state.captioned)
