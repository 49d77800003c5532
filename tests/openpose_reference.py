"""controlnet_aux's body detector around any network, as the oracle of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from condprep.annotators.openpose.keypoints import Body

Maps = tuple[Tensor, Tensor]  # heatmaps, PAFs


def part_of_the_reference(name: str) -> ModuleType:
    """A module of controlnet_aux's OpenPose; skips the test where that is not installed."""
    return pytest.importorskip(f"controlnet_aux.open_pose.{name}", reason="the reference, controlnet_aux, is missing")


class Reference:
    """Bodies as controlnet_aux finds them with `network` in place of the CMU network."""

    def __init__(self, network: Callable[[Tensor], Maps], scale: float = 0.5, device: str = "cpu") -> None:
        """network: as `condprep.annotators.openpose.annotator.Openpose` takes it; scale: of 368 px, its input's height."""
        module = pytest.importorskip(
            "controlnet_aux.open_pose.body", reason="the reference, controlnet_aux, is not installed"
        )
        names = dict(vars(module))
        # The scale is a constant in the middle of the method.
        source = inspect.getsource(module.Body).replace("scale_search = [0.5]", f"scale_search = [{scale}]")
        exec(compile(source, "body.py", "exec"), names)
        self._body = object.__new__(names["Body"])
        self._body.model = _PafsFirst(network).to(device)

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


class _PafsFirst(nn.Module):
    """The reference's model: PAFs before heatmaps, and a parameter, whose device it asks for."""

    def __init__(self, network: Callable[[Tensor], Maps]) -> None:
        super().__init__()
        self.network = network
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Maps:
        heatmaps, pafs = self.network(x)
        return pafs, heatmaps


def _body(points: list) -> Body:
    return np.array([(p.x, p.y, p.score) if p else (0, 0, 0) for p in points], np.float32)
