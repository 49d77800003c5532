"""What condprep's own annotators share: a call is checked before anything computes, and one that was loaded pickles small."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from condprep.errors import AnnotatorError
from condprep.runtime.fork import check_cuda
from condprep.types import Maps

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

RIGHT = "it takes a tensor (B, 3, H, W) uint8 RGB, 0..255"


class BaseAnnotator(ABC):
    """An `Annotator` (see `protocol`) whose `annotate` sees batches that are what they should be."""

    name: str
    variant: str
    device: str
    batch_size: int
    binary: bool
    columns: Mapping[str, pa.DataType]
    provenance: Mapping[str, Any]
    pickled: tuple[Callable[..., Any], tuple[Any, ...]] | None = None  # what loads it elsewhere, set where it is loaded

    @abstractmethod
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """As `__call__`, of a checked batch."""

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB on `device`, B keys -> maps (B, C, H, W) uint8. Raises AnnotatorError for other input."""
        if problem := _problem(rgb, keys, self.device):
            raise AnnotatorError(f"{self.name}: {problem}")
        from condprep.annotators.precision import by_itself  # and with it torch, which filters of numpy do without

        with by_itself(self.device):
            return self.annotate(rgb, keys)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Loaded by name it pickles, and so is hashed, as what to load, and never as its weights."""
        return self.pickled or super().__reduce_ex__(protocol)


def check_picture(rgb: np.ndarray, name: str) -> None:
    """Raises AnnotatorError for what is no picture (H, W, 3) uint8 RGB in numpy."""
    if not isinstance(rgb, np.ndarray):
        raise AnnotatorError(f"{name}: a picture is an array (H, W, 3) uint8 RGB, 0..255, and not a {_kind(rgb)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        remedy = "; floats 0..1: (x * 255).round().astype('uint8')" if rgb.dtype.kind == "f" else ""
        raise AnnotatorError(
            f"{name}: an array {rgb.shape} {rgb.dtype}, but a picture is (H, W, 3) uint8 RGB, 0..255{remedy}"
        )


def _problem(rgb: Any, keys: Any, device: str) -> str | None:
    """What is wrong with a call, with the remedy."""
    import torch

    if not isinstance(rgb, torch.Tensor):
        remedy = "an array (H, W, 3) uint8: torch.from_numpy(array).permute(2, 0, 1)[None]; files, bytes and PIL: "
        return f"got a {_kind(rgb)}, but {RIGHT}; {remedy}condprep.Session or condprep.annotate"
    if rgb.dtype != torch.uint8:
        return f"got {tuple(rgb.shape)} {_kind(rgb)}, but {RIGHT}; {_to_uint8(rgb)}"
    if rgb.ndim != 4 or rgb.shape[1] != 3 or not rgb.numel():
        return f"got {tuple(rgb.shape)} uint8, but {RIGHT}; {_to_batch(rgb)}"
    return _problem_with_keys(keys, len(rgb)) or _problem_with_device(rgb, device)


def _to_uint8(rgb: Tensor) -> str:
    if rgb.is_floating_point():
        return "floats 0..1: (x * 255).round().to(torch.uint8); floats 0..255: x.round().clamp(0, 255).to(torch.uint8)"
    return "whole numbers 0..255: x.to(torch.uint8)"


def _to_batch(rgb: Tensor) -> str:
    if not rgb.numel():
        return "there is no picture in it"
    if rgb.ndim == 4 and rgb.shape[3] == 3:
        return "colours last: x.permute(0, 3, 1, 2)"
    if rgb.ndim == 4:
        return "grey: x.expand(-1, 3, -1, -1)" if rgb.shape[1] == 1 else "with alpha: composite it, then x[:, :3]"
    if rgb.ndim == 3 and rgb.shape[0] == 3:
        return "one picture: x[None]"
    return "one picture, colours last: x.permute(2, 0, 1)[None]"


def _problem_with_keys(keys: Any, pictures: int) -> str | None:
    right = "one string for each picture, which seeds what is random (a build gives the sha256 of each source)"
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        return f"keys are {_kind(keys)}; give {pictures}: {right}"
    if len(keys) != pictures:
        return f"got {pictures} pictures and {len(keys)} keys; give {right}"
    stray = [key for key in keys if not isinstance(key, str)]
    return f"key {stray[0]!r} is {_kind(stray[0])}; give {right}" if stray else None


def _problem_with_device(rgb: Tensor, device: str) -> str | None:
    import torch

    wanted = torch.device(device)
    if wanted.type == "cuda":
        check_cuda()
    if rgb.device.type != wanted.type or wanted.index not in (None, rgb.device.index):
        return f"the pictures are on {rgb.device} and the network is on {device}: x.to({device!r})"
    return None


def _kind(value: Any) -> str:
    """ "torch.float32", "list", "PIL.Image.Image"."""
    if hasattr(value, "dtype"):
        return str(value.dtype) if type(value).__name__ == "Tensor" else f"{type(value).__name__} of {value.dtype}"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
