"""Network maps -> candidate joints and scored limbs, for a whole batch, on its device.

Only these few numbers go to the host, once a batch. Heatmaps are smoothed in float64, as in the reference, so that a peak
on a nearly flat top falls on the same pixel; it is fast by looking only where a peak can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from condprep.annotators.openpose.keypoints import JOINTS, LIMBS
from condprep.annotators.openpose.operators import Operators

PEAK = 0.1  # a peak of the smoothed heatmap is above that
SAMPLES = 10  # of the PAF along a limb
SAMPLE = 0.05  # a sample that speaks for the limb is above that,
AGREEING = 0.8  # and more than this share of them has to be
MOST_PEAKS = 127  # of one joint in one picture, the strongest; OpenPose's own limit. Bounds the pairs

BLOCK = 64  # columns of the picture that are searched together
PAIRS = 2**14  # scored at a time; bounds the memory

# The two PAF maps (x, y) of each limb.
PAF_OF_LIMB = (
    *((12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    *((28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27)),
)


@dataclass(frozen=True, slots=True)
class Peaks:
    """K candidate joints, by picture, joint, row, column."""

    group: Tensor  # (K,) int64: picture x 18 + joint
    y: Tensor  # (K,) int64, pixels
    x: Tensor
    score: Tensor  # (K,) float64: the heatmap there, not smoothed


@dataclass(frozen=True, slots=True)
class LimbCandidates:
    """P candidate limbs that the PAFs support, by picture, limb, first peak, second peak."""

    group: Tensor  # (P,) int64: picture x 19 + limb
    first: Tensor  # (P,) int64, index into the peaks of the batch
    second: Tensor
    score: Tensor  # (P,) float64, above 0


def find_peaks(heatmaps: Tensor, matrices: Operators) -> Peaks:
    """(B, 19, h, w) -> the peaks of the 18 joints: not below any of their four neighbours, and above 0.1."""
    joints = heatmaps[:, : len(JOINTS)].double().flatten(0, 1)  # (B * 18, h, w)
    height = len(matrices.smooth[0])
    room = 2**26 if joints.is_cuda else 2**22  # numbers at a time: few launches there, the cache here
    step = max(1, room // (height * BLOCK))
    found = [_search(maps, matrices.smooth) for maps in torch.split(joints, step)]
    group = torch.cat([index + step * i for i, (index, _, _, _) in enumerate(found)])
    y, x, smoothed = (torch.cat([part[i] for part in found]) for i in (1, 2, 3))
    if len(group) > MOST_PEAKS:
        kept = _strongest(group, smoothed, len(joints))
        group, y, x = group[kept], y[kept], x[kept]
    raw_y, raw_x = matrices.raw
    score = torch.einsum("kh,khw,kw->k", raw_y[y], joints[group], raw_x[x])
    return Peaks(group, y, x, score)


def _search(maps: Tensor, smooth: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(M, h, w) -> map, y, x and smoothed value of each peak, in this order. The host waits three times, however many there are."""
    height, width = (len(matrix) for matrix in smooth)
    rows = (smooth[0] @ maps).flatten(0, 1)  # (M * H, w)
    blocks = [smooth[1][max(start - 1, 0) : start + BLOCK + 1] for start in range(0, width, BLOCK)]  # with neighbours
    # No pixel exceeds the sum of what each cell can contribute; nearly all rows of a block stay below the threshold.
    most = torch.stack([columns.abs().amax(0) for columns in blocks])
    block, kept = (most @ rows.abs().T > PEAK).nonzero(as_tuple=True)
    shares = _counted(block, len(blocks))
    found = [
        _search_block(rows, columns, part, height, number)
        for number, (columns, part) in enumerate(zip(blocks, torch.split(kept, shares.tolist())))
    ]
    values, peak = (torch.cat(part) for part in zip(*found))
    index, x = peak.nonzero(as_tuple=True)
    row, x, value = kept[index], BLOCK * block[index] + x, values[index, x]
    order = (row * width + x).argsort()
    row = row[order]
    return row // height, row % height, x[order], value[order]


def _search_block(rows: Tensor, columns: Tensor, kept: Tensor, height: int, number: int) -> tuple[Tensor, Tensor]:
    """Rows (M * H, w), still in cells, of which N are kept -> their values in that block of columns and whether they are
    peaks, (N, BLOCK) each; past the picture's edge there are none."""
    values = rows[kept] @ columns.T  # with the columns beside it
    peak = _peak_mask(values, neighbours=(kept[1:] == kept[:-1] + 1) & (kept[1:] % height != 0))
    first = min(number, 1)
    own = slice(first, first + BLOCK)
    missing = (0, BLOCK - len(columns[own]))
    return F.pad(values[:, own], missing), F.pad(peak[:, own], missing)


def _peak_mask(values: Tensor, neighbours: Tensor) -> Tensor:
    """Rows (N, n) and whether each two of them (N - 1,) are neighbours in one map -> which pixels are peaks (N, n).

    What lies outside, or in a row that was left out, is not above the threshold and so below any peak.
    """
    apart = ~neighbours[:, None]
    peak = values > PEAK
    peak[:, 1:] &= values[:, 1:] >= values[:, :-1]
    peak[:, :-1] &= values[:, :-1] >= values[:, 1:]
    peak[1:] &= (values[1:] >= values[:-1]) | apart
    peak[:-1] &= (values[:-1] >= values[1:]) | apart
    return peak


def _strongest(group: Tensor, value: Tensor, groups: int) -> Tensor:
    """Sorted groups (K,) and values (K,) -> the indices of the MOST_PEAKS largest of each group, in their order."""
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]  # by group, the largest first
    rank = torch.arange(len(order), device=group.device) - _starts(_counted(group, groups))[group[order]]
    return order[rank < MOST_PEAKS].sort().values


def score_limbs(pafs: Tensor, peaks: Peaks, matrices: Operators) -> LimbCandidates:
    """PAFs (B, 38, h, w) and the peaks -> every pair of peaks that can be a limb, with its score.

    The score is the mean of the PAF along the pair, less a penalty where it is longer than half the picture's height.
    """
    raw_y, raw_x = matrices.raw
    # Every column of the picture, its rows still in cells: (B, 38, W, h). float32, as are the reference's enlarged maps.
    columns = raw_x.float() @ pafs.float().mT
    group, first, second = _all_pairs(peaks, len(pafs))
    parts = zip(*(torch.split(one, PAIRS) for one in (group, first, second)))
    scored = [_score(columns, raw_y, peaks, *part) for part in parts]
    score, agreeing = (torch.cat(part) for part in zip(*scored))
    index = ((agreeing > AGREEING * SAMPLES) & (score > 0)).nonzero()[:, 0]
    return LimbCandidates(group[index], first[index], second[index], score[index])


def _all_pairs(peaks: Peaks, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs (first, second) of the peaks that a limb could join, in every picture, with their group."""
    device = peaks.group.device
    counts = _counted(peaks.group, batch * len(JOINTS))
    starts, counts = _starts(counts).view(batch, -1), counts.view(batch, -1)
    a, b = _on_device(LIMBS, str(device)).T
    sizes = (counts[:, a] * counts[:, b]).flatten()  # (B * 19,)
    group = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
    within = torch.arange(len(group), device=device) - _starts(sizes)[group]
    seconds = counts[:, b].flatten()[group]
    return group, starts[:, a].flatten()[group] + within // seconds, starts[:, b].flatten()[group] + within % seconds


def _counted(group: Tensor, groups: int) -> Tensor:
    """(K,) -> how many there are of each, (groups,). `bincount` would wait for the device."""
    return torch.zeros(groups, dtype=torch.int64, device=group.device).scatter_add_(0, group, torch.ones_like(group))


def _starts(counts: Tensor) -> Tensor:
    """(2, 0, 3) -> (0, 2, 2)."""
    return counts.cumsum(0) - counts


@lru_cache(maxsize=32)
def _on_device(table: tuple[tuple[int, int], ...], device: str) -> Tensor:
    """A table of whole numbers, copied there once."""
    return torch.tensor(table, device=device)


def _score(
    columns: Tensor, raw_y: Tensor, peaks: Peaks, group: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """P pairs -> their scores (P,) and how many samples agree (P,). `columns`: see `score_limbs`."""
    point = torch.stack([peaks.x, peaks.y], 1).double()
    start, span = point[first], point[second] - point[first]  # (P, 2)
    length = span.square().sum(1).sqrt().clamp_min(0.001)
    steps = torch.arange(SAMPLES, device=span.device)[:, None] * (span / (SAMPLES - 1))[:, None]  # (P, 10, 2)
    x, y = (start[:, None] + steps).round().long().unbind(2)
    maps = _on_device(PAF_OF_LIMB, str(span.device))[group % len(LIMBS)]  # (P, 2)
    picture = group // len(LIMBS)
    fields = columns[picture[:, None, None], maps[:, None], x[:, :, None]]  # (P, 10, 2, h)
    vectors = (fields * raw_y[y][:, :, None]).sum(3)
    samples = (vectors * (span / length[:, None])[:, None]).sum(2)  # (P, 10)
    prior = (0.5 * len(raw_y) / length - 1).clamp_max(0)
    return samples.sum(1) / SAMPLES + prior, (samples > SAMPLE).sum(1)
