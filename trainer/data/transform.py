"""A row's picture and map at the size that is trained: one placement for both, one mirror for both.

A row that has its bucket's size already is untouched. Maps of two levels, of poses and of segments are resampled by
nearest neighbour, since a mixed value would mean nothing; the others like pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.keypoints import JOINTS, Points, Pose, present
from condprep.images.decode import Pixels, decode
from condprep.images.geometry import Geometry, Placement, Size, resize
from trainer.data.rows import Row
from trainer.errors import DataError

NEAREST = ("canny", "scribble", "pose", "segmentation", "color", "inpaint")
SIDES = {"left": "right", "right": "left"}
SWAPPED = [  # each joint's counterpart on the other side
    JOINTS.index("_".join(SIDES.get(word, word) for word in joint.split("_"))) for joint in JOINTS
]


@dataclass(frozen=True)
class Transform:
    """The way from rows to what is trained on. All sizes are (height, width), pixels."""

    resolution: int
    fit: Literal["bucket", "crop"]
    kinds: tuple[str | None, ...]  # of the conditions
    random: bool = False  # crops are drawn, not central

    def place(self, size: Size, at: tuple[float, float] = (0.5, 0.5)) -> Placement:
        """Where a row of that size goes; its bucket is the canvas. at: of a random crop, (top, left), 0..1."""
        side = self.resolution
        if size == (side, side):
            return Placement((0, 0, *size), size, size)
        placement = Geometry(side, self.fit, max_upscale=math.inf).place(size)
        if not self.random:
            return placement
        _, _, height, width = placement.box
        top, left = (int(share * (whole - part + 1)) for share, whole, part in zip(at, size, (height, width)))
        return replace(placement, box=(top, left, height, width))

    def __call__(self, row: Row, mirrored: bool = False, at: tuple[float, float] = (0.5, 0.5)) -> tuple[Pixels, Pixels]:
        """Picture, (H, W, 3) uint8, and condition, (H, W, 3): of several (H, W, 3 K). Raises Rejected for one that cannot be decoded."""
        pixels, maps = decode(row.image).rgb, [decode(one).rgb for one in row.conditions]
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            maps = [_mirrored(kind, row, one) for kind, one in zip(self.kinds, maps)]
        placement = self.place((pixels.shape[0], pixels.shape[1]), at)
        placed = resize(pixels, placement)
        conditions = [_placed(kind, one, placement, placed) for kind, one in zip(self.kinds, maps, strict=True)]
        return placed, conditions[0] if len(conditions) == 1 else np.concatenate(conditions, 2)

    def mask(self, mask: bytes, mirrored: bool = False, at: tuple[float, float] = (0.5, 0.5)) -> Pixels:
        """A row's mask, (H, W, 3) uint8, the way of its picture. Raises Rejected for one that cannot be decoded."""
        pixels = decode(mask).rgb
        seen = np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels
        return resize(seen, self.place((pixels.shape[0], pixels.shape[1]), at))


def way_of(kind: str | None) -> bool | str:
    """What a kind does to the pixels of a map that is resampled: kinds of one way give the same."""
    return kind if kind == "inpaint" else kind in NEAREST


def _placed(kind: str | None, condition: Pixels, placement: Placement, picture: Pixels) -> Pixels:
    """A map of that kind, the way of its picture. picture: placed."""
    if kind not in NEAREST or placement.content == placement.box[2:]:
        return resize(condition, placement)
    top, left, height, width = placement.box
    view = condition[top : top + height, left : left + width]
    resized = np.asarray(cv2.resize(view, placement.content[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    if kind == "inpaint":  # what is left of the picture is that picture
        return np.where(resized.any(2, keepdims=True), picture, np.uint8(0))
    return resized


def _mirrored(kind: str | None, row: Row, condition: Pixels) -> Pixels:
    if kind != "pose":
        return np.ascontiguousarray(condition[:, ::-1])
    assert row.keypoints is not None  # check_mirror has seen to it
    height, width = condition.shape[:2]
    return draw_poses([mirrored_pose(person, width) for person in row.keypoints["people"]], height, width)


def planes(pixels: Sequence[Pixels]) -> Tensor:
    """B of (H, W, 3) -> (B, 3, H, W); by numpy, as the caches do it."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))


def source_of(transform: Sequence[float] | None, stored: Size) -> tuple[Size, tuple[float, float]]:
    """The size of a stored picture's source, and what was cut off above and left of it, in stored pixels.

    transform: as condprep writes it; it has cut the middle out, so as much is gone on the other side, to within a pixel of
    the source. Without one the picture is its own source.
    """
    if transform is None:
        return stored, (0.0, 0.0)
    sx, _, tx, _, sy, ty = transform
    height, width = stored
    return (round((height - 2 * ty) / sy), round((width - 2 * tx) / sx)), (max(0.0, -ty), max(0.0, -tx))


def check_mirror(kind: str | None, keypoints: bool) -> None:
    """Raises DataError for conditions that cannot be mirrored."""
    if kind is None:
        raise DataError(
            "data.hflip: what kind the conditions are is not clear; name it with data.kind, or say data.hflip = 0"
        )
    if kind == "pose" and not keypoints:
        raise DataError(
            "data.hflip: a mirrored pose is drawn anew from its keypoints, and the dataset has no column of them; "
            "build it with condprep, or say data.hflip = 0"
        )
    if kind == "normal":
        raise DataError("data.hflip: a mirrored normal map would point the wrong way; say data.hflip = 0")


def mirrored_pose(person: Mapping[str, Any], width: int) -> Pose:
    """A person of the `keypoints` column as a mirror shows it: x from the other side, left and right exchanged."""
    body, left, right, face = (
        _mirrored_points(person.get(part), width)
        for part in ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "face_keypoints_2d")
    )
    assert body is not None
    return Pose(body[SWAPPED], left_hand=right, right_hand=left, face=face)


def _mirrored_points(flat: Any, width: int) -> Points | None:
    """[x, y, confidence, ...] -> (N, 3); None where there are none. Missing points stay 0, 0, 0."""
    if not flat:
        return None
    points = np.array(flat, np.float32).reshape(-1, 3)
    there = present(points)
    points[there, 0] = width - 1 - points[there, 0]
    return points
