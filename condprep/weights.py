"""Where weights come from. (Interface; the implementation follows.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightFile:
    """A weights file that is on disk and whose sha256 is known."""

    name: str  # as on the Hub: "body_pose_model.pth"
    path: Path
    sha256: str
    pinned: bool  # False: not the pinned content, the user's own


class Weights:
    """Finds weights: a folder (`--weights` or CONDPREP_WEIGHTS), then the Hub cache, then a pinned download.

    folder: files under their Hub names. strict: no variant may stand in for one whose weights are missing.
    offline: never download. say: called with a line that the user must see (a user's own file, a stand-in, a download).
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        strict: bool = False,
        offline: bool = False,
        say: Callable[[str], None] = print,
    ) -> None: ...

    def find(self, name: str) -> WeightFile | None:
        """The file if it is on disk already (folder, then cache), else None. Raises WeightsError if damaged."""
        ...

    def get(self, name: str) -> WeightFile:
        """The file, downloaded if need be. Raises WeightsUnavailable with the exact remedy, WeightsError if damaged."""
        ...
