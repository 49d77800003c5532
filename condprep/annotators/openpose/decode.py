"""The network's maps -> people: the candidates of a whole batch on its device, then picture by picture on the host."""

from __future__ import annotations

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
    # Indices go over the whole batch, so each picture is given all joints, and its own limbs.
    joints = [Joint(*row) for row in zip(peaks.x.tolist(), peaks.y.tolist(), peaks.score.tolist())]
    limbs: list[list[Limb]] = [[] for _ in range(len(heatmaps) * len(LIMBS))]
    rows = zip(pairs.group.tolist(), pairs.first.tolist(), pairs.second.tolist(), pairs.score.tolist())
    for group, first, second, score in rows:
        limbs[group].append(Limb(first, second, score))
    return [assemble(joints, limbs[start : start + len(LIMBS)]) for start in range(0, len(limbs), len(LIMBS))]
