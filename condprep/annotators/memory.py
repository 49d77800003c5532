"""What a network needs for pictures of one size, known before they are tried.

It is run on tensors that have a shape and no numbers, and what is alive at once is added up: seconds become milliseconds, and a
picture that no memory could hold costs nothing. Weights are there already and do not count, nor does what a kernel takes
while it computes: so only half of a device's memory is given away.
"""

from __future__ import annotations

from condprep.annotators.protocol import Annotator, Weighed
from condprep.errors import ProgramFault, Rejected
from condprep.runtime.memory import usable_memory

SHARE = 2  # of a device's memory, a network's pictures take half
GRID = 64  # pixels; sizes are counted rounded up to it, so that few are
PLAIN = 1024**2  # pixels of a picture up to which `plenty` is enough: what attention needs grows faster than pictures


def device_memory(device: str) -> int:
    """Bytes that a device has in all; of the CPU what this process may use."""
    import torch

    kind = torch.device(device)
    return int(torch.cuda.get_device_properties(kind).total_memory) if kind.type == "cuda" else usable_memory()


def memory_of_process(device: str, sharing: int) -> int:
    """Bytes that one of so many processes on this machine has; a GPU has memory of its own."""
    import torch

    return device_memory(device) // (sharing if torch.device(device).type == "cpu" else 1)


class Allowance:
    """How many pictures of a size a network is given at once."""

    def __init__(self, annotator: Annotator, planned: int | None = None, here: int | None = None) -> None:
        """planned: bytes that a build allows, the same on every machine; what one picture needs beyond makes it a reject.
        here: bytes that this device has; what goes beyond is the device's fault. Default: half of what it has."""
        self._annotator, self._planned, self._here = annotator, planned, here
        self._needed: dict[tuple[int, int], int] = {}

    def together(self, pictures: int, height: int, width: int) -> int:
        """Of so many the most that there is memory for. Raises Rejected and ProgramFault."""
        if not isinstance(self._annotator, Weighed):
            return pictures
        if self._here is None:
            self._here = device_memory(self._annotator.device) // SHARE
        limit = self._here if self._planned is None else self._planned
        size = -(-height // GRID) * GRID, -(-width // GRID) * GRID
        pixels, plenty = size[0] * size[1], self._annotator.plenty
        if plenty and pixels <= PLAIN and pictures * pixels * plenty <= min(limit, self._here):
            return pictures
        one, what = self._one(self._annotator, size), f"of {width} x {height} px"
        if self._planned is not None and one > self._planned:
            raise Rejected(
                "annotate", self._too_large(f"a picture {what}", one, self._planned), code="too-large-for-network"
            )
        most = min(pictures, max(1, limit // one)) if one else pictures
        if most * one > self._here:
            what = f"{most} pictures {what}" if most > 1 else f"a picture {what}"
            raise ProgramFault(
                f"{self._too_large(what, most * one, self._here)}. Go on with a device that has more, or fewer processes on this one"
            )
        return most

    def _too_large(self, what: str, need: int, limit: int) -> str:
        more = "" if self._planned is None else ", or more --network-memory where there is more"
        return (
            f"{self._annotator.name} needs {need / 1e9:,.2f} GB for {what} > limit {limit / 1e9:,.2f} GB; give a smaller --resolution, "
            f"--fit crop or bucket instead of keep{more}"
        )

    def _one(self, annotator: Weighed, size: tuple[int, int]) -> int:
        """Bytes for one picture."""
        from condprep.annotators.weighing import needed  # and with it torch, which filters do without

        if size not in self._needed:
            self._needed[size] = needed(annotator, *size)
        return self._needed[size]
