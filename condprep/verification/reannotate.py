"""Maps made again: the annotator that made a dataset's maps, or one that finds the same, looks at some of its pictures.

An annotator without a network (canny) is called where a pair is measured. A network gets batches of equal shape, in a pass
over the chosen rows before all others, and only numbers are kept of that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from itertools import chain, islice
from random import Random
from threading import Lock
from typing import Any, Literal

import numpy as np

from condprep.annotators.batches import as_batch, by_shape
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.protocol import Annotator, full_name
from condprep.annotators.recorded import Recorded
from condprep.annotators.registry import load_annotator, parse
from condprep.annotators.runner import Runner
from condprep.dataset.pairs.base import Pairs
from condprep.errors import AnnotatorError, BuildFailed, CondprepError, PassingFault, Rejected, WeightsError
from condprep.images.decode import Pixels
from condprep.runtime.concurrency import ordered_map
from condprep.types import PICTURED
from condprep.verification.alignment.checks import Reannotated
from condprep.verification.alignment.comparison import Alignment, compare
from condprep.verification.alignment.offsets import describe
from condprep.verification.alignment.pictured import compare_pictured
from condprep.verification.features import classify
from condprep.verification.opened import OpenedPair, memory_of, open_pair, under_way
from condprep.verification.padding import content, framed, whole
from condprep.verification.poses.comparison import compare_poses
from condprep.verification.poses.crosscheck import compare_people
from condprep.verification.poses.recognition import ROWS, drew
from condprep.verification.unfinished import Unfinished
from condprep.weights.find import Weights

SampleSize = int | Literal["all"]
# Who says that this annotator made the maps: a build, a user, the maps themselves, or nobody
Maker = Literal["recorded", "named", "recognised", "stand-in"]
SAMPLE = 512  # rows: one of them has a defect that one row in a hundred has, with 99 %
NEIGHBOURS = 8  # rows in a row that are sampled together, so that columns out of step show
STAND_IN = "openpose:blaze"  # finds poses where nobody knows who drew them
CMU = "openpose:cmu"  # drew most of the poses that are around
WOBBLE = {STAND_IN: 3.0}  # pixels at 512 by which people move as a whole in a JPEG: it sees each in a crop of its own
FINEST = 0.75  # pixels of a shift that is told


class Comparer:
    """Compares the chosen rows with the maps that an annotator makes of their pictures now."""

    def __init__(self, annotator: Annotator, rows: Container[int], maker: Maker = "recorded") -> None:
        self.name = full_name(annotator.name, annotator.variant)
        self.network = annotator.batch_size > 1
        self.problem = ""  # why it stopped
        self._kind = kind_of_annotator(annotator.name, annotator.variant)
        self._poses = self._kind == "pose"
        self._annotator, self._looking = annotator, Lock()
        self._runner, self._rows, self._maker = Runner(annotator), rows, maker
        self._seen: dict[int, Reannotated] = {}

    def __call__(self, opened: OpenedPair) -> Reannotated | None:
        """None for a row that was not chosen, or that the annotator fails on. Thread-safe."""
        row = opened.pair.row
        if row is None or row not in self._rows:
            return None
        if self.network:
            return self._seen.pop(row, None)
        (made,) = self._made([opened])
        return None if made is None else self._compare(opened, made)

    @property
    def question(self) -> dict[str, Any]:
        """What its comparisons depend on, beside the rows."""
        rows = sorted(self._rows) if isinstance(self._rows, frozenset) else "all"
        made = {"provenance": dict(self._annotator.provenance), "device": str(self._annotator.device)}
        return {"name": self.name, "maker": self._maker, "rows": rows, **made}

    def look(
        self,
        pairs: Pairs,
        pool: Executor,
        ahead: int,
        progress: Callable[[int, int | None], None],
        unfinished: Unfinished,
    ) -> None:
        """The pass of a network over its rows. progress: gets how many rows are done, and of how many where that is known.

        unfinished: has what it has seen of them already, and keeps what it sees now, batch by batch, so that those that follow
        are made up as they would have been.
        """
        if not self.network:
            return
        total = len(self._rows) if isinstance(self._rows, frozenset) else pairs.known_rows()
        known = dict(unfinished.read("maps"))
        self._seen |= {row: _compared(*kept) for row, kept in known.items() if kept}
        progress(len(known), total)
        with ThreadPoolExecutor(1, "condprep-device") as device:
            wanted = pairs.read(_Without(self._rows, known))
            opened = ordered_map(pool, open_pair, wanted, ahead, memory_of, under_way(ahead))
            batches = by_shape(filter(whole, opened), content, self._annotator.batch_size)
            made = chain.from_iterable(ordered_map(device, self._batch, batches, 2))
            remembered = ordered_map(pool, self._remember, made, ahead)
            for done, (row, compared, last) in enumerate(remembered, 1 + len(known)):
                if compared is not None:
                    self._seen[row] = compared
                if self.problem:
                    unfinished.give_up()
                unfinished.add("maps", [row, _kept(compared)], whole=last)
                progress(done, total)

    def _batch(self, batch: list[OpenedPair]) -> list[tuple[OpenedPair, np.ndarray | None, bool]]:
        """With each pair's map whether it is the last of the batch."""
        made = self._made(batch)
        return [(opened, one, opened is batch[-1]) for opened, one in zip(batch, made)]

    def _remember(self, pair: tuple[OpenedPair, np.ndarray | None, bool]) -> tuple[int, Reannotated | None, bool]:
        opened, made, last = pair
        return opened.pair.row or 0, None if made is None else self._compare(opened, made), last

    def _made(self, batch: list[OpenedPair]) -> list[np.ndarray | None]:
        """The maps of pictures of one shape. An annotator that fails on everything is not asked any more."""
        if self.problem:
            return [None] * len(batch)
        try:
            results = self._runner(as_batch([content(one) for one in batch]), [one.pair.key for one in batch])
        except PassingFault:
            raise
        except (AnnotatorError, BuildFailed) as error:
            self.problem = str(error)
            return [None] * len(batch)
        return [None if isinstance(result, Rejected) else framed(result[0], one) for one, result in zip(batch, results)]

    def _compare(self, opened: OpenedPair, made: np.ndarray) -> Reannotated:
        """A recorded network saw the very pixels that are stored, so its poses are one drawing, to be found as any map is."""
        assert opened.map is not None
        if self._kind in PICTURED:
            # with the parameters that a build wrote down; who names the annotator need not know how much was lost
            known = made if self._maker == "recorded" else None
            found = compare_pictured(_picture(opened), opened.map, str(self._kind), known, FINEST)
        elif self._poses and self._maker == "stand-in":
            found = self._foreign(opened, made)
        elif self._poses and self._maker in ("named", "recognised"):
            found = compare_poses(made, opened.map, own=True, wobble=WOBBLE.get(self.name, 0.0))
        else:
            found = compare(made, opened.map, FINEST, own=self._maker == "recorded")
        return Reannotated(found, describe(made, "pose") if self._poses else None, self._maker != "stand-in")

    def _foreign(self, opened: OpenedPair, made: np.ndarray) -> Alignment:
        """Of a map of unknown origin: with the people that are found, and where these say too little, with those drawn."""
        picture, stored = _picture(opened), opened.map
        assert stored is not None
        found = compare_poses(made, stored)
        look = getattr(self._annotator, "look", None)
        if found.wrong or look is None or stored.ndim != 3:
            return found
        with self._looking:
            guided = compare_people(picture, stored, made, partial(look, as_batch([picture])))
        return guided if guided.verdict == "shifted" or found.verdict == "unknown" else found


def _picture(opened: OpenedPair) -> Pixels:
    assert opened.image.rgb is not None
    return opened.image.rgb


class _Without(Container[int]):
    """The rows that are wanted, but for those that are known."""

    def __init__(self, rows: Container[int], known: Container[int]) -> None:
        self.rows, self.known = rows, known

    def __contains__(self, row: object) -> bool:
        return row in self.rows and row not in self.known


def _kept(compared: Reannotated | None) -> list[Any] | None:
    """As values that can be kept."""
    if compared is None:
        return None
    alignment = [getattr(compared.alignment, one.name) for one in fields(compared.alignment)]
    return [alignment, compared.made, compared.own]


def _compared(alignment: Sequence[Any], made: np.ndarray | None, own: bool) -> Reannotated:
    """The same again."""
    return Reannotated(Alignment(*alignment), made, own)


def find_comparer(
    pairs: Pairs,
    wanted: tuple[str, Mapping[str, Any]] | None,
    sample: SampleSize | None,
    device: str,
    weights: Weights,
    notes: list[str],
    trust: Sequence[str] = (),
) -> Comparer | None:
    """The annotator to compare with, loaded; None where there is none, and then a note says why.

    wanted: name and parameters, where the user gave them. sample: rows; None: all of an annotator without a network, else
    SAMPLE. trust: annotators that the dataset may name beside condprep's own. Raises AnnotatorError for a name or a parameter that the user got wrong.
    """
    if sample == 0:
        notes.append("alignment: no map is made again (--sample 0)")
        return None
    try:
        loaded = _load(pairs, wanted, sample, device, weights, trust)
    except CondprepError as error:
        if wanted and isinstance(error, AnnotatorError):
            raise
        notes.append(f"alignment: no map is made again: {error}")
        return None
    if loaded is None:
        notes.append(
            "alignment: nobody says what made the maps; --annotator NAME compares with maps made again, to 2 px"
        )
        return None
    annotator, maker = loaded
    if maker == "recognised":
        notes.append(f"alignment: the poses look like those that {full_name(annotator.name, annotator.variant)} draws")
    return Comparer(annotator, chosen(pairs, sample or ("all" if annotator.batch_size == 1 else SAMPLE)), maker)


def _load(
    pairs: Pairs,
    wanted: tuple[str, Mapping[str, Any]] | None,
    sample: SampleSize | None,
    device: str,
    weights: Weights,
    trust: Sequence[str],
) -> tuple[Annotator, Maker] | None:
    """The annotator that the user names, or the build, or for poses of unknown origin one that finds poses."""
    if wanted:
        return load_annotator(wanted[0], device=device, params=wanted[1], weights=weights), "named"
    if pairs.made:
        made = Recorded("the dataset", pairs.made.annotator, pairs.made.params, pairs.made.weights)
        return made.load(trust=trust, device=device, weights=weights, trust_by="--annotator"), "recorded"
    if (pairs.said or _first_kind(pairs)) == "pose":
        return _finder(pairs, sample, device, weights)
    return None


def _finder(pairs: Pairs, sample: SampleSize | None, device: str, weights: Weights) -> tuple[Annotator, Maker]:
    """The finder of poses that drew those of the dataset, if it is at hand, else the stand-in, which alone is fetched."""
    rows = chosen(pairs, min(sample, ROWS) if isinstance(sample, int) else ROWS)
    spec, variant = parse(CMU)
    if all(map(weights.locate, spec.weights[variant])):
        try:
            cmu = load_annotator(CMU, device=device, weights=weights)
            if drew(cmu, pairs, rows):
                return cmu, "recognised"
        except WeightsError as error:
            weights.say(f"{CMU} is not asked who drew the poses: {error}")
    stand_in = load_annotator(STAND_IN, device=device, weights=weights)
    return stand_in, "recognised" if drew(stand_in, pairs, rows) else "stand-in"


def _first_kind(pairs: Pairs) -> str | None:
    """What most of the first maps look like."""
    opened = map(open_pair, islice(pairs.read(range(NEIGHBOURS)), NEIGHBOURS))
    kinds = Counter(classify(one.features) for one in opened if one.features)
    return kinds.most_common(1)[0][0] if kinds else None


def chosen(pairs: Pairs, sample: SampleSize) -> Container[int]:
    """The rows to compare with maps made again: all, or `sample` of them at random, NEIGHBOURS together; always the same."""
    total = _Count.of(pairs) if sample != "all" else 0
    if sample == "all" or total <= sample:
        return range(sys.maxsize)
    groups = Random(0).sample(range(-(-total // NEIGHBOURS)), -(-sample // NEIGHBOURS))
    rows = (NEIGHBOURS * group + n for group in sorted(groups) for n in range(NEIGHBOURS))
    return frozenset(list(rows)[:sample])


class _Count(Container[int]):
    """Has no row, and counts those that it is asked for."""

    def __init__(self) -> None:
        self.rows = 0

    def __contains__(self, row: object) -> bool:
        self.rows += 1
        return False

    @classmethod
    def of(cls, pairs: Pairs) -> int:
        """How many rows there are, without reading a picture."""
        count = cls()
        for _ in pairs.read(count):
            pass
        return count.rows
