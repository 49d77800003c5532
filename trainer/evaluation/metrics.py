"""How alike two condition maps are: pure functions, each the same for the same two maps on any machine.

Maps are (H, W) grey or (H, W, 3) RGB, uint8, 0..255; `made` is what was found again in a generated picture, `wanted` what
the picture was to follow. Both have one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Map = NDArray[np.uint8]

EDGE = 127  # levels above which a pixel is an edge
SCALES_NEED = 161  # pixels: the shortest side that MS-SSIM's five scales of an 11-pixel window can be taken of


def edge_f1(made: Map, wanted: Map, tolerance: float) -> float:
    """F1 of two maps of edges, 0..1. An edge is found where the other map has one within `tolerance` pixels (Euclidean).

    Precision is the share of made edges near a wanted one, recall the share of wanted edges near a made one, so it is
    symmetric. Two empty maps agree: 1. One empty map finds nothing: 0.
    """
    ours, theirs = _edges(made), _edges(wanted)
    if not ours.any() or not theirs.any():
        return float(not ours.any() and not theirs.any())
    precision, recall = _near(ours, theirs, tolerance), _near(theirs, ours, tolerance)
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _edges(pixels: Map) -> NDArray[np.bool_]:
    return grey(pixels) > EDGE


def _near(edges: NDArray[np.bool_], others: NDArray[np.bool_], tolerance: float) -> float:
    """The share of `edges` that have one of `others` within the tolerance."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[edges] <= tolerance + 1e-4).mean())


def ssim(made: Map, wanted: Map) -> float:
    """Structural similarity, -1..1: an 11-pixel Gaussian window of sigma 1.5, as Wang et al. 2004; mean over channels."""
    from torchmetrics.functional.image import structural_similarity_index_measure as measure

    return float(measure(*_tensors(made, wanted), data_range=255.0))


def ms_ssim(made: Map, wanted: Map) -> float:
    """Multi-scale SSIM, 0..1 (Wang et al. 2003, five scales). NaN below `SCALES_NEED` pixels, where it is not defined."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    if min(made.shape[:2]) < SCALES_NEED:
        return float("nan")
    return float(measure(*_tensors(made, wanted), data_range=255.0, normalize="relu"))


def depth_rmse(made: Map, wanted: Map) -> float:
    """Root of the mean squared difference, 0..255, of two depth maps that are each stretched to 0..255 first.

    Relative depth has no scale of its own, so each map is. A map of one level becomes 0.
    """
    difference = _stretched(made) - _stretched(wanted)
    return float(np.sqrt(np.mean(difference**2)))


def _stretched(pixels: Map) -> NDArray[np.float64]:
    levels = grey(pixels).astype(np.float64)
    low, high = levels.min(), levels.max()
    return np.asarray((levels - low) / max(high - low, 1.0) * 255, np.float64)


def rank_correlation(made: Map, wanted: Map) -> float:
    """Spearman's, -1..1: is the nearer pixel nearer in both? Two maps of one level agree: 1. Only one of them: 0."""
    from scipy.stats import spearmanr

    a, b = grey(made).ravel(), grey(wanted).ravel()
    flat = np.ptp(a) == 0, np.ptp(b) == 0
    if any(flat):
        return float(all(flat))
    return float(spearmanr(a, b).statistic)


def grey(pixels: Map) -> Map:
    """(H, W): a map of three channels by Rec. 601, one of equal channels as it is."""
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _tensors(*maps: Map) -> list[Tensor]:
    """(1, C, H, W) float64 each: in float32 flat maps would not be equal to themselves. A grey map beside one of colours has three alike."""
    import torch

    channels = 3 if any(one.ndim == 3 for one in maps) else 1
    planes = [np.broadcast_to(one if one.ndim == 3 else one[..., None], (*one.shape[:2], channels)) for one in maps]
    return [torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1), np.float64))[None] for one in planes]
