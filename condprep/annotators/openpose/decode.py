"""The network's maps -> people: the candidates of a whole batch on its device, then picture by picture on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from condprep.annotators.openpose.keypoints import LIMBS, Body
from condprep.annotators.openpose.operators import Frame, operators
from condprep.annotators.openpose.peaks import find_peaks, score_limbs
from condprep.annotators.openpose.people import Joint, Limb, assemble


def decode_poses(heatmaps: Tensor, pafs: Tensor, frame: Frame) -> list[list[Body]]:
    """Heatmaps (B, 19, h, w) and PAFs (B, 38, h, w) of pictures of one size -> the bodies (18, 3) in each of them.

    People, joints and their scores are those of controlnet_aux for the same maps; the method is that of Cao et al.
    """
    matrices = operators(frame, str(heatmaps.device))
    peaks = find_peaks(heatmaps, matrices)
    pairs = score_limbs(pafs, peaks, matrices)
    found = _on_host([peaks.x, peaks.y, peaks.score], [pairs.group, pairs.first, pairs.second, pairs.score])
    # Indices go over the whole batch, so each picture is given all joints, and its own limbs.
    joints = [Joint(int(x), int(y), score) for x, y, score in found[0]]
    limbs: list[list[Limb]] = [[] for _ in range(len(heatmaps) * len(LIMBS))]
    for group, first, second, score in found[1]:
        limbs[int(group)].append(Limb(int(first), int(second), score))
    return [assemble(joints, limbs[start : start + len(LIMBS)]) for start in range(0, len(limbs), len(LIMBS))]


def _on_host(*tables: Sequence[Tensor]) -> list[list[list[float]]]:
    """Tables of columns (N,) each -> their rows, in one copy: float64 holds every index that there can be."""
    columns = [column.double() for table in tables for column in table]
    flat = iter(torch.split(torch.cat(columns).cpu(), [len(column) for column in columns]))
    return [torch.stack([next(flat) for _ in table], 1).tolist() for table in tables]
