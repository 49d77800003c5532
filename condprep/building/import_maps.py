"""Maps that are there already: checked against their picture, placed as it is, and kept byte for byte where nothing changes.

A pair is rejected for what `condprep verify` calls an error of structure or condition, except for what importing itself
repairs: EXIF orientation is baked in, more than 8 bits become 8, a missing caption becomes an empty one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa

from condprep.dataset.pairs.base import Pair, Pairs
from condprep.errors import AnnotatorError, Rejected
from condprep.images.decode import Header, Picture, decode, header
from condprep.images.encode import encode_map
from condprep.images.extent import within_its_end
from condprep.images.geometry import Placement, pad, resize
from condprep.types import CONDITION_KINDS, IMPORTED, Maps, Sample
from condprep.verification import condition, structure
from condprep.verification.check import Context, Group
from condprep.verification.condition import OddKind
from condprep.verification.features import BINARY, classify
from condprep.verification.opened import Opened, OpenedPair, open_pair
from condprep.verification.tokens import TokenCounter

if TYPE_CHECKING:
    from torch import Tensor

REPAIRED = ("caption", "orientation", "bits")  # rules of what is no more so in the row
FLAT = (
    *BINARY,
    "pose",
    "segmentation",
    "color",
    "inpaint",
)  # kinds whose values mean something by themselves: never mixed
LOOKED_AT = 64  # maps that tell the kind where nobody says it


class Imported:
    """Stands where an annotator stands, with the same provenance; its maps come from the source."""

    name = IMPORTED
    variant = ""
    device = "cpu"
    batch_size = 1
    binary = False

    def __init__(self, kind: str | None) -> None:
        """kind: one of condprep.types.CONDITION_KINDS: what maps are held to, and how they are resampled."""
        self.kind = kind
        self.columns: Mapping[str, pa.DataType] = {}
        self.provenance: Mapping[str, Any] = {
            "parameters": {"kind": kind},
            "weights": {},
            "licence": "that of the source",
            "commercial": True,
        }

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        raise AnnotatorError("maps that were imported cannot be made of other pictures")

    def row(self, sample: Sample, picture: Picture, placement: Placement, max_pixels: int) -> dict[str, Any]:
        """The columns of the map that came with a picture. Raises Rejected with what is wrong with the pair."""
        data = sample.condition or b""
        try:
            head, found = header(data, max_pixels=max_pixels), decode(data, max_pixels=max_pixels)
        except Rejected as rejected:
            raise Rejected("decode", f"the map cannot be decoded: {rejected.reason}", code="damaged-map") from None
        self._check(sample, Opened(header(sample.data, max_pixels=max_pixels), picture.rgb), Opened(head, found.rgb))
        kept = not placement.changes(picture.size) and (found.pristine or _plain_grey(head, data))
        stored = within_its_end(data) if kept else self._placed(found.rgb, placement)
        return {"conditioning_image": {"bytes": stored, "path": None}, "empty": not found.rgb.any()}

    def _check(self, sample: Sample, image: Opened, of_map: Opened) -> None:
        pair = Pair(0, sample.name, sample.data, sample.condition or b"", list(sample.text))
        context = Context(self.kind, False, False, _NO_TOKENS)
        for group in _GROUPS:
            scores = group.measure(OpenedPair(pair, image, of_map), context)
            for check in group.checks:
                if check.severity == "error" and check.name not in REPAIRED and (reason := check(scores)):
                    code = f"{group.name}-{check.name}"
                    raise Rejected("check", f"{group.name}, {check.name}: {reason}", code=code)

    def _placed(self, rgb: np.ndarray, placement: Placement) -> bytes:
        """PNG of the map where the picture is: grey where it is grey, of one bit where it holds 0 and 255 alone."""
        pixels = pad(resize_map(rgb, placement, self.kind in FLAT), placement)
        if (pixels[..., :1] != pixels).any():
            return encode_map(pixels, False)
        grey = np.ascontiguousarray(pixels[..., 0])
        return encode_map(grey, bool(np.isin(grey, (0, 255)).all()))


_NO_TOKENS = TokenCounter(None)  # captions are not judged here
_GROUPS: Sequence[Group] = (structure.STRUCTURE, condition.CONDITION)


def resize_map(rgb: np.ndarray, placement: Placement, flat: bool) -> np.ndarray:
    """Crop and resize a map as its picture: (H, W, 3) uint8 -> (*content, 3) uint8. flat: by the nearest pixel."""
    if not flat:
        return resize(rgb, placement)
    top, left, height, width = placement.box
    view = np.ascontiguousarray(rgb[top : top + height, left : left + width])
    return np.asarray(cv2.resize(view, placement.content[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _plain_grey(head: Header, data: bytes) -> bool:
    """Whether any reader sees the pixels of a grey map as we do."""
    odd = (b"iCCP", b"ICC_PROFILE", b"acTL")  # colour profiles, animations
    return head.mode in ("1", "L") and head.orientation == 1 and not any(tag in data for tag in odd)


def imported(pairs: Pairs, kind: str | None, say: Callable[[str], object]) -> Imported:
    """What imports these pairs. kind: what the user says they are; else what their source says, else what they look like."""
    return Imported(kind or pairs.said or _guess(pairs, say))


def _guess(pairs: Pairs, say: Callable[[str], object]) -> str | None:
    """What nearly all of the first maps look like, of those that look like anything clear; where only most do, that is said."""
    opened = (open_pair(pair) for pair in islice(_whole(pairs), LOOKED_AT))
    kinds = Counter(kind for one in opened if one.features and (kind := classify(one.features)) in CONDITION_KINDS)
    kind, maps = kinds.most_common(1)[0] if kinds else (None, 0)
    if maps >= OddKind.CLEAR * kinds.total():
        return kind
    if kind and maps > kinds.total() / 2:
        say(
            f"{maps} of the first {kinds.total()} maps look like {kind} and the others do not, so they are held to no kind; "
            f"--condition-kind {kind} rejects those that are something else"
        )
    return None


def _whole(pairs: Pairs) -> Iterator[Pair]:
    return (pair for pair in pairs if pair.problem is None)
