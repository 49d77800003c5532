"""Which measures a kind of condition has, and a whole set of rows scored by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from condprep.annotators.openpose.keypoints import Body
from trainer.evaluation import metrics
from trainer.evaluation.intervals import Interval, interval, interval_of
from trainer.evaluation.metrics import Map

Measure = Callable[[Map, Map], float]

EDGES: Mapping[str, Measure] = {f"f1_{pixels}px": partial(metrics.edge_f1, tolerance=pixels) for pixels in (2, 1, 0)}
SOFT: Mapping[str, Measure] = {"ssim": metrics.ssim, "ms_ssim": metrics.ms_ssim}
DEPTH: Mapping[str, Measure] = {"depth_rmse": metrics.depth_rmse, "rank_correlation": metrics.rank_correlation}
OTHERS: Mapping[str, Measure] = {"ssim": metrics.ssim}
MEASURES = {"canny": EDGES, "scribble": EDGES, "softedge": SOFT, "lineart": SOFT, "depth": DEPTH}  # the first one leads
AP = "ap"  # of poses: of a set of rows, not of one
LOWER = {"depth_rmse", "kid"}  # is better

NAMES = {
    **{"f1_0px": "edge F1, 0 px", "f1_1px": "edge F1, 1 px", "f1_2px": "edge F1, 2 px"},
    **{"ssim": "SSIM", "ms_ssim": "MS-SSIM", "depth_rmse": "depth RMSE", "rank_correlation": "rank correlation"},
    **{
        "oks": "mean OKS",
        "pck": "PCK",
        AP: "OKS AP",
        "sharpness": "sharpness",
        "clip": "CLIP score",
        "kid": "KID x 1000",
    },
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What a picture was to follow, or what was found in it."""

    pixels: Map
    people: Sequence[Body] | None = None  # of poses


def compare(kind: str | None, made: Condition, wanted: Condition) -> dict[str, float]:
    """Every measure of that kind, the leading one first; NaN where one is not defined. kind: of condprep.types.CONDITION_KINDS, None: not known."""
    if kind == "pose" and made.people is not None and wanted.people is not None:
        from trainer.evaluation import poses

        return {name: run(made.people, wanted.people) for name, run in (("oks", poses.mean_oks), ("pck", poses.pck))}
    return {name: run(made.pixels, wanted.pixels) for name, run in MEASURES.get(kind or "", OTHERS).items()}


def summarise(
    kind: str | None,
    rows: Sequence[Mapping[str, float]],
    made: Sequence[Condition],
    wanted: Sequence[Condition],
    seed: int,
) -> dict[str, Interval]:
    """The mean of every measure over rows, and for poses their AP. made: one of each row."""
    found = {name: interval([row[name] for row in rows], seed) for name in rows[0]}
    people = [(ours.people, theirs.people) for ours, theirs in zip(made, wanted)]
    if kind == "pose" and all(None not in pair for pair in people):
        from trainer.evaluation.poses import AveragePrecision

        precision = AveragePrecision([ours or () for ours, _ in people], [theirs or () for _, theirs in people])
        found[AP] = interval_of(precision, len(rows), seed)
    return found
