"""condprep.Session: annotators that are loaded once in each process, for pictures that come in any lots from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from condprep.annotation.description import Description, describe
from condprep.annotation.pictures import Annotated, Picture, name_of, read_picture
from condprep.annotation.rows import Finish, RowSession
from condprep.annotators.batches import as_batch, by_shape, to_device
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Result, Runner, Undrawn
from condprep.building.picture import further_columns
from condprep.dataset.columns import further_column
from condprep.errors import Rejected, UsageError
from condprep.images.geometry import Placement, pad, resize
from condprep.runtime.concurrency import in_order, ordered_map, usable_cores
from condprep.runtime.fork import Lock, check_cuda, keep_torch_usable
from condprep.runtime.once import OncePerProcess
from condprep.runtime.retry import retried
from condprep.runtime.wording import in_python_words
from condprep.types import Reject
from condprep.weights.find import Weights

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R")

AHEAD = 4  # pictures a thread that may be decoded and wait, and as many that may be drawn


@dataclass
class Placed:
    """A picture on its way through a session."""

    name: str
    key: str  # sha256 of the bytes or pixels
    rgb: np.ndarray  # (*content, 3) uint8
    placement: Placement
    seen: dict[str, Undrawn | Result] = field(default_factory=dict)  # column -> what its annotator made of it so far

    def reject(self, why: Rejected) -> Reject:
        return Reject(self.name, why.stage, why.reason, why.code, self.key)


Item = tuple[int, Placed | Reject]  # a picture's number, and what has become of it so far


class Session(RowSession):
    """Annotators for other pipelines: `session(images)` gives maps as `condprep.annotate` does, and loads only once.

    They are loaded when they are first needed, in each process by itself: a session pickles as what to load. Threads may
    share one, and so may processes that were forked or spawned.
    """

    @in_python_words
    def __init__(
        self,
        annotators: str | Sequence[str] = (),
        *,
        like: str | Path | None = None,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        resolution: int | None = None,
        fit: str | None = None,
        device: str = "auto",
        weights: Weights | None = None,
        trust_annotators: Sequence[str] = (),
        workers: int | None = None,
        image: str = "image",
    ) -> None:
        """What `condprep.annotate` takes, and beside it:

        workers: threads that read, decode and draw (default: the cores). image: the key of the picture in rows; of
        several, "jpg;png", the first that is there. Raises UsageError for what the caller got wrong.
        """
        geometry, wanted = describe(annotators, like, params, resolution, fit)
        trust = (trust_annotators,) if isinstance(trust_annotators, str) else tuple(trust_annotators)
        self._begin(Description(geometry, wanted, device, weights or Weights(), trust, workers, image))

    def _begin(self, description: Description) -> None:
        self.description = description
        self._pickled: Description | None = None  # with the weights' sha256
        self._runners: dict[str, Runner] | None = None
        self._loading, self._device = Lock(), Lock()
        keep_torch_usable()

    def __reduce__(self) -> Any:
        """Finds the weights, fetching what is not here, so that every process computes with the same; loads nothing."""
        with self._loading:
            if self._pickled is None:
                self._pickled = self.description if self.description.found else self.description.resolved()
                _sessions.remember(repr(self._pickled), self)
        return described, (self._pickled,)

    def on(self, device: str) -> Session:
        """The session that does the same on another device."""
        return described(replace(self.description, device=device))

    @property
    def annotators(self) -> Mapping[str, Annotator]:
        """Column -> annotator, loaded now if they are not yet. Raises AnnotatorError and WeightsError."""
        return {column: runner.annotator for column, runner in self._loaded().items()}

    def load(self) -> None:
        """Load now what is loaded at the first call otherwise."""
        self._loaded()

    @property
    def further(self) -> dict[str, pa.DataType]:
        """What there is beside the maps: column -> type."""
        return {
            further_column(column, annotator.name, name): kind
            for column, annotator in self.annotators.items()
            for name, kind in annotator.columns.items()
        }

    def __call__(self, images: Iterable[Picture]) -> list[Annotated | Reject]:
        """Maps of `images`, in their order; a picture that cannot be read or annotated is a Reject with its reason."""
        if isinstance(images, str | Path | bytes | Image.Image | Mapping):
            raise UsageError("images is one picture; give a list of them: [picture]")
        return list(self.stream(images, lambda _, result: result))

    def stream(self, images: Iterable[Picture], finish: Finish[R]) -> Iterator[R]:
        """finish(number, result) of each of `images`, in their order, as they come: done by a thread.

        What is under way is bounded by the pictures that a network looks at together, whose sum of pixels is.
        """
        runners = self._loaded()
        workers = self.description.workers or usable_cores()
        pool = ThreadPoolExecutor(workers, "condprep")
        try:
            items = ordered_map(pool, partial(self._prepare, runners), enumerate(images), AHEAD * workers)
            seen = in_order(self._see(items, runners), itemgetter(0))
            yield from ordered_map(pool, partial(_finish, runners, finish), seen, AHEAD * workers)
        finally:
            pool.shutdown(cancel_futures=True)

    def _loaded(self) -> dict[str, Runner]:
        with self._loading:
            if self._runners is None:
                self._runners = {column: Runner(one) for column, one in self.description.load().items()}
        if any(runner.annotator.device.startswith("cuda") for runner in self._runners.values()):
            check_cuda()  # of a parent that had loaded them before it forked
        return self._runners

    def _prepare(self, runners: Mapping[str, Runner], numbered: tuple[int, Any]) -> Item:
        """What a thread does with one picture by itself: read, decode, place, and run what is no network."""
        number, image = numbered
        name, key = name_of(image, number), None
        try:
            geometry = self.description.geometry
            key, picture = retried(partial(read_picture, image, geometry.reduction), name)
            placement = geometry.place(picture.size)
            placed = Placed(name, key, resize(picture.rgb, placement, picture.grid), placement)
            for column, runner in runners.items():
                if _is_filter(runner):
                    placed.seen[column] = runner.drawn(placed.rgb, key)
            return number, placed
        except Rejected as rejected:
            return number, Reject(name, rejected.stage, rejected.reason, rejected.code, key)

    def _see(self, items: Iterator[Item], runners: Mapping[str, Runner]) -> Iterator[Item]:
        """What the networks see in pictures of one shape together, and each by itself where there is no network."""
        networks = {column: runner for column, runner in runners.items() if not _is_filter(runner)}
        if not networks:
            yield from items
            return
        annotators = [runner.annotator for runner in networks.values()]
        for batch in by_shape(items, _waiting, max(one.batch_size for one in annotators)):
            placed = [one for _, one in batch if isinstance(one, Placed)]
            if placed:
                keys = [one.key for one in placed]
                with self._device:
                    rgb = to_device(as_batch([one.rgb for one in placed]), annotators[0].device)
                    for column, runner in networks.items():
                        for one, seen in zip(placed, runner.see(rgb, keys)):
                            one.seen[column] = seen
            yield from batch


_sessions: OncePerProcess[Session] = OncePerProcess()


def described(description: Description, *, keep: bool = True) -> Session:
    """The session of this process that does what the description says. keep: for who unpickles it again and again."""

    def make() -> Session:
        session = Session.__new__(Session)
        session._begin(description)
        return session

    return _sessions.get(repr(description), make, keep=keep)


def _is_filter(runner: Runner) -> bool:
    """Whether threads call it, a picture at a time."""
    return runner.annotator.batch_size == 1


def _waiting(item: Item) -> np.ndarray | None:
    """What waits for others of its shape; nothing of a reject."""
    return item[1].rgb if isinstance(item[1], Placed) else None


def _finish(runners: Mapping[str, Runner], finish: Finish[R], item: Item) -> R:
    number, one = item
    return finish(number, one if isinstance(one, Reject) else _annotated(one, runners))


def _annotated(placed: Placed, runners: Mapping[str, Runner]) -> Annotated | Reject:
    """Draws what was seen."""
    maps: dict[str, Image.Image] = {}
    columns: dict[str, Any] = {}
    for column, runner in runners.items():
        seen = placed.seen[column]
        result = runner.finish(seen) if isinstance(seen, Undrawn) else seen
        if isinstance(result, Rejected):
            return placed.reject(result)
        pixels, further = result
        maps[column] = Image.fromarray(pad(pixels, placed.placement))
        columns |= further_columns(column, runner.annotator, further, placed.placement)
    return Annotated(Image.fromarray(pad(placed.rgb, placed.placement)), maps, columns)
