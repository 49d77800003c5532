"""Hands and faces for people whose bodies are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from condprep.annotators.openpose.boxes import Box, face_box, hand_box
from condprep.annotators.openpose.faces import Faces
from condprep.annotators.openpose.hands import Hands
from condprep.annotators.openpose.keypoints import Body, Points, Pose


def complete(
    rgb: Tensor, people: Sequence[Sequence[Body]], hands: Hands | None, faces: Faces | None
) -> list[list[Pose]]:
    """Pictures (B, 3, H, W) uint8 RGB and the bodies in each -> the same people with hands and faces, where asked for.

    All hands of the batch are looked for together, and so are all faces.
    """
    height, width = rgb.shape[2:]
    bodies = [body for found in people for body in found]
    pictures = [picture for picture, found in zip(rgb, people) for _ in found]
    left, right = ([hand_box(body, side, height, width) for body in bodies] for side in ("left", "right"))
    both = _locate(hands, pictures * 2, left + right)
    face = _locate(faces, pictures, [face_box(body, height, width) for body in bodies])
    poses = map(Pose, bodies, both[: len(bodies)], both[len(bodies) :], face)
    return [[next(poses) for _ in found] for found in people]


def _locate(
    finder: Hands | Faces | None, pictures: Iterable[Tensor], boxes: Sequence[Box | None]
) -> list[Points | None]:
    """The points in each box; where there is no box they are missing, and without a finder there are none."""
    if finder is None:
        return [None] * len(boxes)
    found = iter(finder([box.cut(picture) for picture, box in zip(pictures, boxes) if box]))
    missing = np.zeros((finder.points, 3), np.float32)
    return [box.place(next(found)) if box else missing for box in boxes]
