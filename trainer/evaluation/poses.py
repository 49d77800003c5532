"""How alike the people of two pictures are, by COCO's measures: OKS, its average precision, and PCK.

A body is OpenPose's (18, 3): x, y in pixels and a confidence, missing points 0, 0, 0. It is compared as COCO's 17 points;
the neck, which COCO does not have, is left out. A person's area is that of the box of their points, since a pose has
no outline; COCO's own figures use the outline's area, which is smaller.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from condprep.annotators.openpose.keypoints import JOINTS, Body

COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
    *("left_ankle", "right_ankle"),
)
ORDER = [JOINTS.index(name) for name in COCO_JOINTS]
# per joint, twice COCO's constants: how far apart people mark the same joint, in parts of the root of the area
SPREADS = 2 * np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
LEAST_AREA = 1.0  # square pixels: of a person with one point
MATCHED = 0.1  # OKS from which on two people are the same one, for PCK
PCK_SHARE = 0.1  # of the longer side of a person's box: how far off a point may be

People = Sequence[Body]


def as_coco(body: Body) -> NDArray[np.float64]:
    """(18, 3) of OpenPose -> (17, 3) in COCO's order."""
    return np.asarray(body, np.float64)[ORDER]


def oks(made: Body, wanted: Body) -> float:
    """Object keypoint similarity over the points of `wanted`, 0..1; one that `made` lacks counts as wrong."""
    ours, theirs = as_coco(made), as_coco(wanted)
    there = theirs.any(1)
    if not there.any():
        return 0.0
    distance = ((ours - theirs)[there, :2] ** 2).sum(1)
    alike = np.exp(-distance / (2 * _area(theirs) * SPREADS[there] ** 2)) * ours[there].any(1)
    return float(alike.mean())


def _box(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """(left, top, width, height) of the points that are there, pixels."""
    x, y = points[points.any(1), :2].T
    return float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))


def _area(points: NDArray[np.float64]) -> float:
    _, _, width, height = _box(points)
    return max(width * height, LEAST_AREA)


def matched(made: People, wanted: People) -> list[tuple[Body, Body, float]]:
    """Who is who: (made, wanted, OKS) of pairs, each person in one at most, so that the OKS add up to the most."""
    wanted = _seen(wanted)
    if not made or not wanted:
        return []
    alike = np.array([[oks(ours, theirs) for theirs in wanted] for ours in made])
    return [(made[i], wanted[j], float(alike[i, j])) for i, j in zip(*linear_sum_assignment(-alike))]


def mean_oks(made: People, wanted: People) -> float:
    """The mean OKS over all people of either picture, 0..1: who is missing, and who is one too many, counts as 0.

    Nobody in both: 1.
    """
    made, wanted = _seen(made), _seen(wanted)
    most = max(len(made), len(wanted))
    return sum(alike for *_, alike in matched(made, wanted)) / most if most else 1.0


def pck(made: People, wanted: People) -> float:
    """The share of wanted points within `PCK_SHARE` of their person's size, over the people that are matched, 0..1.

    NaN where nobody is: it says how exact a pose is, not whether it is there.
    """
    right: list[float] = []
    for ours, theirs, alike in matched(made, wanted):
        if alike >= MATCHED:
            a, b = as_coco(ours), as_coco(theirs)
            there, size = b.any(1), max(_box(b)[2:])
            off = np.hypot(*(a - b)[there, :2].T)
            right += (a[there].any(1) & (off <= PCK_SHARE * size)).tolist()
    return float(np.mean(right)) if right else float("nan")


def _seen(people: People) -> list[Body]:
    """Those with a point that COCO knows."""
    return [body for body in people if as_coco(body).any()]


class AveragePrecision:
    """COCO's keypoint AP (OKS 0.50, 0.55 ... 0.95) of N pictures, and of N drawn from them."""

    def __init__(self, made: Sequence[People], wanted: Sequence[People]) -> None:
        """The people of N pictures each."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth, found = COCO(), COCO()
        with contextlib.redirect_stdout(io.StringIO()):  # it has no other way to be quiet
            for coco, pictures in ((truth, wanted), (found, made)):
                coco.dataset = _dataset(pictures)
                coco.createIndex()
            self.scores = COCOeval(truth, found, "keypoints")
            self.scores.params.areaRng, self.scores.params.areaRngLbl = [[0, 1e10]], ["all"]
            self.scores.evaluate()
        self.pictures = list(self.scores.evalImgs)  # what was found of each, in their order

    def __call__(self, chosen: Sequence[int] | None = None) -> float:
        """AP, 0..1, NaN without a person. chosen: numbers of N pictures, some of them repeated; None: each once."""
        self.scores.evalImgs = self.pictures if chosen is None else [self.pictures[number] for number in chosen]
        with contextlib.redirect_stdout(io.StringIO()):
            self.scores.accumulate()
        precision = self.scores.eval["precision"]
        known = precision[precision > -1]
        return float(known.mean()) if known.size else float("nan")


def _dataset(pictures: Sequence[People]) -> dict[str, Any]:
    """COCO's JSON of people; a person's score is the mean confidence of the points."""
    annotations: list[dict[str, Any]] = []
    for number, people in enumerate(pictures, 1):
        annotations += [_annotation(as_coco(body), number) for body in _seen(people)]
    return {
        "images": [{"id": number} for number in range(1, len(pictures) + 1)],
        "annotations": [one | {"id": number} for number, one in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "person"}],
    }


def _annotation(points: NDArray[np.float64], picture: int) -> dict[str, Any]:
    there = points.any(1)
    flat = np.column_stack([points[:, :2], 2 * there]).ravel()
    return {
        "image_id": picture,
        "category_id": 1,
        "keypoints": flat.tolist(),
        "num_keypoints": int(there.sum()),
        "score": float(points[there, 2].mean()),
        "area": _area(points),
        "bbox": list(_box(points)),
        "iscrowd": 0,
    }
