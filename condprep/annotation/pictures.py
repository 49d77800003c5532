"""What is handed over to be annotated, and what comes back: any kind of picture -> its pixels, its maps -> a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from condprep.errors import Rejected
from condprep.images.decode import Picture as Decoded
from condprep.images.decode import Reduction, decode, rgb_pixels
from condprep.runtime.fork import Lock
from condprep.runtime.retry import is_passing
from condprep.sources.base import read_regular

# A file, its bytes, a PIL picture, (H, W, 3) uint8 RGB, or {"bytes": ..., "path": ...} as `datasets` stores pictures
Picture = str | Path | bytes | bytearray | Image.Image | np.ndarray | Mapping[str, Any]


@dataclass(frozen=True)
class Annotated:
    """A picture as the annotators saw it, its maps of the same size by column, and what they found besides."""

    image: Image.Image  # RGB
    maps: Mapping[str, Image.Image]  # "canny" -> L or RGB
    columns: Mapping[str, Any]  # "keypoints" -> {"people": [...]}


def name_of(image: Any, number: int) -> str:
    """What a reject calls it: its path where it has one."""
    path = image.get("path") if isinstance(image, Mapping) else image
    return str(path) if isinstance(path, str | Path) else f"picture {number}"


def read_picture(image: Any, reduction: Reduction | None = None) -> tuple[str, Decoded]:
    """The key (sha256 of the bytes, or of the pixels where there are none), and the picture.

    reduction: how many times smaller encoded ones may be decoded, as `decode` takes it.

    Raises Rejected for what cannot be read, and for what is no Picture.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, np.ndarray):
        return _array(image)
    if isinstance(image, Image.Image):
        return _keyed(_loaded(image))
    if isinstance(image, str | Path):
        image = read_regular(Path(image))
    if not isinstance(image, bytes | bytearray):
        if image is None:
            raise Rejected("read", "no picture: None", code="no-picture")
        raise Rejected("read", f"no picture: a {type(image).__name__}", code="bad-value")
    return sha256(image).hexdigest(), decode(bytes(image), reduction=reduction)


def _array(image: np.ndarray) -> tuple[str, Decoded]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        reason = f"an array of {image.shape} {image.dtype} is not (H, W, 3) uint8 RGB"
        raise Rejected("decode", reason, code="unknown-format")
    # torch takes no read-only array, and no annotator shall write into the caller's
    return _keyed(np.array(image, order="C"))


def _keyed(rgb: np.ndarray) -> tuple[str, Decoded]:
    return sha256(rgb.tobytes()).hexdigest(), Decoded(rgb, (rgb.shape[0], rgb.shape[1]), pristine=False)


_one_at_a_time = [Lock() for _ in range(64)]  # a picture that is there twice would be read from its file by two threads


def _loaded(image: Image.Image) -> np.ndarray:
    """The pixels of a PIL picture, which is decoded only now where it was opened from a file. Raises Rejected."""
    try:
        with _one_at_a_time[id(image) % len(_one_at_a_time)]:
            return rgb_pixels(image)
    except (OSError, SyntaxError, ValueError) as error:
        if is_passing(error):
            raise
        reason = f"{image.format or 'the picture'} cannot be decoded: {error}"
        raise Rejected("decode", reason, code="damaged") from None
