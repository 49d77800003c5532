"""What annotators that find people share: who is there is seen on the device, and drawn without it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.openpose.draw import People, draw_people, drawn
from condprep.annotators.openpose.keypoints import KEYPOINTS, Pose
from condprep.types import Maps, Seen

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


class PeopleAnnotator(BaseAnnotator):
    """Draws whom `find` finds. A map is drawn exactly as its `keypoints` column has it."""

    name = "openpose"
    binary = False
    columns: Mapping[str, pa.DataType] = MappingProxyType({"keypoints": KEYPOINTS})

    @abstractmethod
    def find(self, rgb: Tensor) -> Sequence[Sequence[Pose]]:
        """(B, 3, H, W) uint8 RGB -> the people in each picture, in its pixels."""

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> drawn people (B, 3, H, W) uint8 RGB on the host, and the `keypoints` column."""
        return drawn(self.see(rgb, keys))

    def see(self, rgb: Tensor, keys: Sequence[str] = ()) -> Seen:
        """Who is in each picture, and its size."""
        return Seen([], [(people, *rgb.shape[2:]) for people in self.find(rgb)])

    def draw(self, arrays: Sequence[np.ndarray], found: People) -> tuple[np.ndarray, dict[str, Any]]:
        """The people of one picture -> the map (H, W, 3), and the column."""
        return draw_people(found)
