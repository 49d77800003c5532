"""Who drew poses that nobody signed: a network is recognised by the joints that it puts to the pixel.

Two networks mean places by a joint that are pixels apart, and differ from each other more from joint to joint than one
does from itself. Of maps of real photographs 17 of 17 (blaze) and 124 of 125 are the drawing that their own network makes again of
the picture's JPEG, at most 3 of 100 that which another makes, and of other pictures' none (`python -m bench verify-poses`).
"""

from __future__ import annotations

from collections.abc import Container
from itertools import islice

from condprep.annotators.batches import as_batch
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Runner
from condprep.dataset.pairs.base import Pairs
from condprep.errors import AnnotatorError, BuildFailed, Rejected
from condprep.verification.opened import OpenedPair, open_pair
from condprep.verification.padding import content, framed, whole
from condprep.verification.poses.comparison import RECOGNISABLE, same_drawing
from condprep.verification.poses.joints import drawn_joints

ROWS = 96  # to look through for poses,
POSES = 32  # and of these to draw again
# Of the poses that can be compared; where half of the maps are in wrong places, the rest suffice
SHARE, FEWEST = 0.2, 4


def drew(annotator: Annotator, pairs: Pairs, rows: Container[int]) -> bool:
    """Whether the annotator drew the poses of a dataset, by the first POSES of the rows that show enough.

    The maps may be shifted, flipped or turned, and half of them belong to other pictures.
    """
    runner = Runner(annotator)
    poses = islice(filter(_recognisable, map(open_pair, pairs.read(rows))), POSES)
    try:
        same = [one for one in (_same(runner, opened) for opened in poses) if one is not None]
    except (AnnotatorError, BuildFailed):
        return False
    return sum(same) >= max(FEWEST, SHARE * len(same))


def _recognisable(opened: OpenedPair) -> bool:
    return whole(opened) and opened.map is not None and len(drawn_joints(opened.map)) >= RECOGNISABLE


def _same(runner: Runner, opened: OpenedPair) -> bool | None:
    (result,) = runner(as_batch([content(opened)]), [opened.pair.key])
    if isinstance(result, Rejected):
        return None
    assert opened.map is not None
    return same_drawing(framed(result[0], opened), opened.map)
