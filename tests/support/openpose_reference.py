"""controlnet_aux's OpenPose around any networks, as the oracle of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condprep.annotators.openpose.keypoints import Body

Maps = tuple[Tensor, Tensor]  # heatmaps, PAFs


def part_of_the_reference(name: str) -> ModuleType:
    """A module of controlnet_aux's OpenPose; skips the test where that is not installed."""
    reason = "the reference, controlnet_aux, is missing"
    _resize_by_planes(pytest.importorskip("controlnet_aux.open_pose.util", reason=reason))
    return pytest.importorskip(f"controlnet_aux.open_pose.{name}", reason=reason)


@cache
def _resize_by_planes(util: ModuleType) -> None:
    """Weaving the resized heatmaps together, a pixel of each by turns, is most of what the reference does otherwise."""
    util.smart_resize, util.smart_resize_k = by_planes(util.smart_resize), by_planes(util.smart_resize_k)


def by_planes(resize: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """The same function of (H, W, channels), whose result lies in memory as channels of (H, W)."""

    @wraps(resize)
    def resized(x: NDArray[Any], *size: Any, **factors: Any) -> NDArray[Any]:
        if x.ndim == 2 or x.shape[2] in (1, 3):  # which OpenCV resizes at once
            return resize(x, *size, **factors)
        return np.stack([resize(x[:, :, n], *size, **factors) for n in range(x.shape[2])]).transpose(1, 2, 0)

    return resized


@cache
def _edited(part: str, name: str, *edits: tuple[str, str]) -> type:
    """A class of a module of the reference with some words of its source exchanged: constants stand in its methods."""
    module = part_of_the_reference(part)
    source = inspect.getsource(getattr(module, name))
    for before, after in edits:
        assert before in source
        source = source.replace(before, after)
    names = vars(module) | {"evenly": evenly}
    exec(compile(source, f"{part}.py", "exec"), names)
    made: type = names[name]
    return made


def _body_class(scale: float) -> type:
    """Its `Body` with another scale, and places that are rounded sooner."""
    scales = ("scale_search = [0.5]", f"scale_search = [{scale}]")
    return _edited("body", "Body", scales, ("np.linspace(", "evenly("))


def hand_class(side: int = 368) -> type:
    """Its `Hand` with another second of the four sizes, pixels; the others are a half, three halves and twice of it."""
    return _edited("hand", "Hand", ("boxsize = 368", f"boxsize = {side}"))


def evenly(first: float, last: float, num: int) -> list[float]:
    """What `np.linspace` gives, as numbers of Python: to round numpy's is most of what the reference does in a crowd."""
    step = (float(last) - float(first)) / (num - 1)
    return [float(first) + number * step for number in range(num - 1)] + [float(last)]


class Reference:
    """Bodies as controlnet_aux finds them with `network` in place of the CMU network."""

    def __init__(self, network: Callable[[Tensor], Maps], scale: float = 0.5, device: str = "cpu") -> None:
        """network: as `condprep.annotators.openpose.annotator.Openpose` takes it; scale: of 368 px, its input's height."""
        network = network.to(device) if isinstance(network, nn.Module) else network
        self._body = object.__new__(_body_class(scale))
        self._body.model = _Model(lambda x: network(x)[::-1]).to(device)  # PAFs come first there

    def __call__(self, rgb: np.ndarray) -> list[Body]:
        """(H, W, 3) uint8 RGB -> bodies (18, 3)."""
        people = self._body.format_body_result(*self._body(rgb[:, :, ::-1]))
        return [_body(person.keypoints) for person in people]

    @staticmethod
    def draw(people: list[Body], height: int, width: int) -> np.ndarray:
        """Bodies (18, 3) -> (height, width, 3) uint8 RGB, as controlnet_aux draws them."""
        util = part_of_the_reference("util")
        canvas = np.zeros((height, width, 3), np.uint8)
        for body in people:
            points = [util.Keypoint(x / width, y / height) if c else None for x, y, c in body.astype(float)]
            canvas = util.draw_bodypose(canvas, points)
        return canvas


class WholeReference:
    """People with hands and faces as controlnet_aux finds and draws them, with these networks in place of its own."""

    def __init__(
        self, body: Reference, hand: Callable[[Tensor], Tensor], face: Callable[[Tensor], Tensor], side: int = 368
    ) -> None:
        """hand, face: a batch of one -> heatmaps (1, 22, h, w) and (1, 71, h, w). side: of the second of a hand's sizes."""
        self.detector = object.__new__(pytest.importorskip("controlnet_aux.open_pose").OpenposeDetector)
        self.detector.body_estimation = body._body
        self.detector.hand_estimation = hands = object.__new__(hand_class(side))
        self.detector.face_estimation = faces = object.__new__(part_of_the_reference("face").Face)
        hands.model, faces.model = _Model(hand), _Model(lambda x: [face(x)])

    def __call__(self, rgb: np.ndarray) -> tuple[list, np.ndarray]:
        """(H, W, 3) uint8 RGB -> its PoseResults, points in shares of the picture, and the drawn map (H, W, 3)."""
        poses = self.detector.detect_poses(rgb, include_hand=True, include_face=True)
        drawn = pytest.importorskip("controlnet_aux.open_pose").draw_poses(poses, *rgb.shape[:2])
        return poses, drawn


class _Model(nn.Module):
    """A function with a parameter, whose device the reference asks for."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def _body(points: list) -> Body:
    return np.array([(p.x, p.y, p.score) if p else (0, 0, 0) for p in points], np.float32)
