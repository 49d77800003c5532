"""One picture's way from its source to a row: what needs no other picture, so that a thread does it by itself.

    read      the encoded picture, and how much memory decoding it will take
    prepare   decode -> fit -> encode; and filters such as canny look at what is not compressed yet
    finish    maps -> encode -> row

Between the last two, networks look at batches of prepared pictures (see `device_stage`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from condprep.annotators.pixel_columns import PIXEL_COLUMNS, padded
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Drawn, Result, Runner, Undrawn
from condprep.building.keeping import Turn
from condprep.building.options import BuildOptions
from condprep.dataset.columns import further_column
from condprep.dataset.shards import Row, size_of, stored_row
from condprep.errors import DatasetError, PassingFault, Rejected
from condprep.images.decode import decode, pixels_of
from condprep.images.encode import encode_map, encode_picture
from condprep.images.extent import within_its_end
from condprep.images.geometry import Placement, pad, resize
from condprep.runtime.retry import is_passing, retried
from condprep.sources.base import Source
from condprep.types import IMPORTED, Entry, Reject, Sample

if TYPE_CHECKING:
    from condprep.building.import_maps import Imported


T = TypeVar("T")
DECODING = 6  # bytes a pixel: decoded, and once more while it is turned, cropped or resized


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a run of shards."""

    number: int  # 0, 1, 2, ... in the order in which the rows are wanted
    shard: int
    entry: Entry
    turn: Turn = field(default_factory=Turn, compare=False)

    def reject(self, why: Rejected, key: str | None) -> Reject:
        return Reject(self.entry.name, why.stage, why.reason, why.code, key)


@dataclass(frozen=True, slots=True)
class Found:
    """An input that was read, or why it could not be."""

    input: Input
    state: Sample | Reject | PassingFault
    key: str  # sha256 of the source bytes; "" of what could not be read
    cost: int  # bytes that it takes, at most, until it is prepared


@dataclass(slots=True)
class Draft:
    """A row in the making: the fitted picture, and what is known of the row so far."""

    key: str  # sha256 of the source bytes
    rgb: np.ndarray  # (*content, 3) uint8: as fitted for the filters, then as stored for the networks
    placement: Placement
    columns: dict[str, Any]
    untouched: bool
    captioned: bool
    note: str | None = None  # what has to be said of how its captions were read
    maps: dict[str, np.ndarray] = field(default_factory=dict)  # column -> (h, w) or (h, w, 3) uint8, not yet encoded
    undrawn: dict[str, tuple[Runner, Undrawn]] = field(default_factory=dict)  # what networks have seen, by column
    held: int = 0  # bytes that it takes, at most, from its preparation until it is written
    kept: bool = False  # a row of a dataset to which columns are added: it stays, come what may
    split: str | None = None  # where such a row lies
    without: dict[str, Rejected] = field(default_factory=dict)  # columns of maps that such a row does not get, and why

    def lose(self, input: Input, column: str, why: Rejected) -> Draft | Reject:
        """What becomes of it when an annotator rejects the picture."""
        if not self.kept:
            return input.reject(why, self.key)
        self.without[column] = why
        return self

    def take(self, column: str, annotator: Annotator, drawn: Drawn) -> None:
        """What an annotator drew, and what it returned beside."""
        self.maps[column], further = drawn
        self.columns.update(further_columns(column, annotator, further, self.placement))


Item = tuple[Input, Draft | Reject | PassingFault]  # an input, and what has become of it so far


class PictureStage:
    """`prepare` and `finish`, as a build's options say. Thread-safe."""

    def __init__(self, source: Source, options: BuildOptions, annotators: Mapping[str, Annotator]) -> None:
        """annotators: by the columns of their maps; filters are run here, and `imported` maps come from the source."""
        self.source, self.options, self.geometry = source, options, options.geometry
        self.annotators = annotators
        self.imported = cast("Imported | None", next((a for a in annotators.values() if a.name == IMPORTED), None))
        self.ending = Event()  # set where the run is being stopped: then nobody waits for better times
        self.given_up: dict[int, PassingFault] = {}  # shards: what is left of them is not tried any more
        self.filters = {
            column: Runner(a, self.pause)
            for column, a in annotators.items()
            if a.batch_size == 1 and a.name != IMPORTED
        }
        self.networks = sum(a.batch_size > 1 for a in annotators.values())  # that look at the pictures next

    def pause(self, seconds: float) -> None:
        """Between two attempts."""
        self.ending.wait(seconds)

    def read(self, input: Input) -> Found:
        """Read what is still encoded. What is wrong with it makes it a reject."""
        if input.shard in self.given_up:
            return Found(input, self.given_up[input.shard], "", 0)
        try:
            if input.entry.problem:
                raise Rejected("source", input.entry.problem, code=input.entry.code or "")
            sample = retried(partial(self.source.read, input.entry), input.entry.name, sleep=self.pause)
        except Rejected as rejected:
            return Found(input, input.reject(rejected, None), "", 0)
        except PassingFault as fault:
            return Found(input, self._give_up(input, fault), "", 0)
        key = sample.columns["key"] if sample.columns else sha256(sample.data).hexdigest()
        of_map = self._cost(sample.condition) if sample.condition else 0
        return Found(input, sample, key, self._cost(sample.data) + of_map)

    def _cost(self, data: bytes) -> int:
        return len(data) + DECODING * pixels_of(data, self.options.max_pixels)

    def prepare(self, found: Found, patient: bool = True) -> Item:
        """Decode, fit, encode, and run the filters. What is wrong with the picture makes it a reject.

        patient: try again where the machine lacks something; else that is raised.
        """
        input, sample, key = found.input, found.state, found.key
        if not isinstance(sample, Sample):
            return input, sample
        try:
            draft = self._fit(input.entry, key, sample)
            for column, runner in self.filters.items():
                drawn: Result
                try:
                    drawn = runner.draw(draft.rgb, key)
                    runner.worked(draft.rgb, key)
                except (Exception, SystemExit) as error:
                    drawn = runner.redraw(error, draft.rgb, key)
                if not isinstance(drawn, Rejected):
                    draft.take(column, runner.annotator, drawn)
                elif isinstance(lost := draft.lose(input, column, drawn), Reject):
                    return input, lost
            if self.networks:
                self._encode_maps(draft)  # pixels that wait take memory
                stored = draft.rgb = self._as_stored(draft)
                draft.held = (1 + self.networks) * stored.nbytes + size_of(draft.columns)  # no map is larger
            return input, draft
        except Rejected as rejected:
            return input, input.reject(rejected, key)
        except Exception as error:
            if not patient:
                raise
            return input, self._persist(error, input, key, lambda: self.prepare(found, patient=False)[1])

    def finish(self, item: Item) -> Row | Reject | PassingFault:
        """Draw what the networks have seen, encode it, and the row is there."""
        input, draft = item
        if not isinstance(draft, Draft):
            return draft
        try:
            return self._row(input, draft)
        except Exception as error:
            return self._persist(error, input, draft.key, lambda: self._row(input, draft))

    def _persist(self, error: Exception, input: Input, key: str, again: Callable[[], T]) -> T | Reject | PassingFault:
        """What comes of an input where the machine failed it: it is tried again. Raises what is none of its faults."""
        if not is_passing(error):
            raise error
        try:
            if isinstance(error, PassingFault):  # which was tried often enough
                raise error
            return retried(again, input.entry.name, sleep=self.pause)
        except Rejected as rejected:
            return input.reject(rejected, key)
        except PassingFault as fault:
            return self._give_up(input, fault)

    def _give_up(self, input: Input, fault: PassingFault) -> PassingFault:
        return self.given_up.setdefault(input.shard, fault)

    def _row(self, input: Input, draft: Draft) -> Row | Reject:
        for column, (runner, undrawn) in draft.undrawn.items():
            result = runner.finish(undrawn)
            if not isinstance(result, Rejected):
                draft.take(column, runner.annotator, result)
            elif isinstance(lost := draft.lose(input, column, result), Reject):
                return lost
        draft.undrawn.clear()
        self._encode_maps(draft)
        for column in draft.without:
            annotator = self.annotators[column]
            names = (further_column(column, annotator.name, name) for name in annotator.columns)
            draft.columns.update(dict.fromkeys([column, *names]))
        columns, condition = draft.columns, self.options.condition
        if "conditioning_image" not in columns:
            columns["conditioning_image"] = columns[condition]
            if len(self.annotators) == 1:
                del columns[condition]
        if columns["empty"] and self.options.drop_empty:
            reason = f"empty map: {self.annotators[condition].name} found nothing"
            return Reject(columns["source"], "annotate", reason, "empty-map", draft.key)
        without = tuple(f"{column}: {why.code}" for column, why in draft.without.items())
        if draft.split:
            return replace(stored_row(columns, draft.split), without=without)
        split = self.options.split_of(draft.key, columns["source"])
        enlarged = max(draft.placement.scale) > 1
        return Row(columns, split, enlarged, draft.untouched, draft.captioned, draft.note, without)

    def _fit(self, entry: Entry, key: str, sample: Sample) -> Draft:
        """Decode and place the picture, and fill the columns that are known before annotation."""
        options, geometry, kept = self.options, self.geometry, sample.columns is not None
        try:
            picture = decode(
                sample.data,
                max_pixels=options.max_pixels,
                allow_truncated=options.allow_truncated,
                reduction=None if self.imported else geometry.reduction,  # imported maps lie on all pixels
            )
        except Rejected as rejected:
            if not kept:
                raise
            raise DatasetError(
                f"the picture of the row {entry.name!r} cannot be read ({rejected.reason}); the dataset stays as it is: "
                "leave such rows out with `condprep curate --drop unreadable` before columns are added"
            ) from rejected
        placement = geometry.place(picture.size)
        untouched = picture.pristine and not placement.changes(picture.size)
        came = self.imported.row(sample, picture, placement, options.max_pixels) if self.imported else {}
        rgb = resize(picture.rgb, placement, picture.grid)
        stored = within_its_end(sample.data) if untouched else self._encode_picture(pad(rgb, placement))
        text = entry.text if entry.text is not None else sample.text
        columns = {
            "image": {"bytes": stored, "path": None},
            "text": (text[0] if text else "") if options.captions == "first" else list(text) or [""],
            "key": key,
            "source": entry.name,
            "width": placement.canvas[1],
            "height": placement.canvas[0],
            "transform": placement.transform,
        }
        made = dict(sample.columns or columns | came)
        own = untouched and len(stored) == len(sample.data)  # nothing lay behind its end
        return Draft(key, rgb, placement, made, own, any(text), sample.note, kept=kept, split=sample.split)

    def _encode_picture(self, rgb: np.ndarray) -> bytes:
        return encode_picture(rgb, self.options.image_format, self.options.image_quality)

    def _as_stored(self, draft: Draft) -> np.ndarray:
        """What a reader of the dataset sees, (*content, 3) uint8: a JPEG has moved the values by a few levels."""
        if draft.untouched or self.options.image_format == "png":
            return draft.rgb
        placement = draft.placement
        (top, left), (height, width) = placement.offset, placement.content
        whole = decode(draft.columns["image"]["bytes"], max_pixels=placement.canvas[0] * placement.canvas[1]).rgb
        return np.ascontiguousarray(whole[top : top + height, left : left + width])

    def _encode_maps(self, draft: Draft) -> None:
        """Encode the maps that are there, and forget their pixels."""
        for column, pixels in draft.maps.items():
            if column == self.options.condition:
                draft.columns.setdefault("empty", not pixels.any())
            encoded = encode_map(pad(pixels, draft.placement), self.annotators[column].binary)
            draft.columns[column] = {"bytes": encoded, "path": None}
        draft.maps.clear()


def further_columns(
    column: str, annotator: Annotator, values: Mapping[str, Any], placement: Placement
) -> dict[str, Any]:
    """What an annotator returned beside its map, by its columns in the dataset; with the canvas of the stored picture."""
    if "keypoints" in values and placement.offset != (0, 0):
        from condprep.annotators.openpose.keypoints import moved

        values = {**values, "keypoints": moved(values["keypoints"], *placement.offset)}
    if placement.content != placement.canvas:
        values = {**values, **{name: padded(values[name], placement) for name in PIXEL_COLUMNS & values.keys()}}
    return {further_column(column, annotator.name, name): value for name, value in values.items()}
