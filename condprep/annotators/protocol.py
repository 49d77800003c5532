"""What an annotator is: the protocol that networks and filters implement and the entry that describes them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from condprep.types import Maps, Seen

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pydantic import BaseModel
    from torch import Tensor


class Annotator(Protocol):
    """Turns pictures into condition maps. Deterministic, and independent of the batch that a picture is in."""

    name: str  # as in the table: "canny"; names the column of the maps
    variant: str  # the variant that was really loaded: "cmu", "blaze", "random", or "" where there is one only
    device: str  # where `rgb` is expected: "cpu", "cuda", "cuda:1"
    batch_size: int  # pictures a call at 512 x 512; 1: a filter, called by worker threads on what is not compressed yet
    binary: bool  # the maps hold only 0 and 255 in one channel, and are stored as 1-bit PNG
    columns: Mapping[str, pa.DataType]  # what it returns beside the maps, e.g. {"keypoints": ...}
    provenance: Mapping[
        str, Any
    ]  # {"parameters": {...}, "weights": {file: sha256}, "licence": ..., "commercial": bool}

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB and B keys (sha256 hex; seeds for what is random) -> maps (B, C, H, W) uint8.

        Any H, W >= 1: a size that a network cannot take is padded inside and the map cropped back.
        """
        ...


def full_name(name: str, variant: str) -> str:
    """ "openpose", "blaze" -> "openpose:blaze", as users write it; "canny", "" -> "canny"."""
    return ":".join(filter(None, (name, variant)))


@runtime_checkable
class Filter(Protocol):
    """What an annotator without a network may offer beside `__call__`: the same map of one picture, in numpy."""

    def picture(self, rgb: np.ndarray, key: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(H, W, 3) uint8 RGB and its key -> the map (H, W) or (H, W, 3) uint8, and the row's further columns. Thread-safe."""
        ...


@runtime_checkable
class Drawer(Protocol):
    """What an annotator with a network may offer beside `__call__`: the same maps in two steps.

    The second one needs no device. A build does it in the threads of the CPU, and the device goes on with the next batch.
    """

    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """What `__call__` takes -> all that drawing needs. Does not wait for the device where it can help it."""
        ...

    def draw(self, arrays: Sequence[np.ndarray], found: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """What was seen in one picture, its part of each tensor and of `found` -> what `Filter.picture` returns. Thread-safe."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """What an annotator with a network may offer beside `__call__`: what it needs for a picture is known before it is tried."""

    name: str
    device: str
    plenty: int  # bytes a pixel that are more than it needs for pictures of up to 1 megapixel, so that none is counted; 0: all are

    def weigh(self, rgb: Tensor) -> object:
        """Computes what `__call__` computes of (1, 3, H, W) uint8 on `device`: a tensor that has a shape and no numbers.

        Keeps nothing of it. May end, by whatever it raises, where it would need the numbers.
        """
        ...


@dataclass(frozen=True)
class AnnotatorSpec:
    """An entry of the table of names. Third parties register one in the entry point group `condprep.annotators`."""

    name: str
    summary: str  # one line for `condprep annotators`
    load: (
        Callable[..., Annotator] | str
    )  # load(variant, params, device=, weights=), or "module:function", imported late
    variants: Mapping[str, str] = field(
        default_factory=dict
    )  # variant -> one line; "" is the default where it may be left out
    params: type[BaseModel] | str | None = (
        None  # a pydantic model (or "module:Class"): validates `--set name.key=value`
    )
    licence: str = "Apache-2.0"  # of code and weights, in words
    weights: Mapping[str, Sequence[str]] = field(default_factory=dict)  # variant -> names of weights files
    left_out: Mapping[str, str] = field(default_factory=dict)  # variant that one may look for in vain -> why
    aliases: Sequence[str] = ()
    cpu_only: bool = False  # it needs no torch and no device, so `auto` does not look for one
    open_variant: str = ""  # what a variant may be beside those above: any name with a slash, or a folder; "": nothing
    former: Mapping[str, str] = field(default_factory=dict)  # full name that it had -> variant: records still have it
