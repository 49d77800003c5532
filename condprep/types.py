"""The few things that move through the pipeline.

Pictures are RGB, uint8, 0..255. As numpy arrays they are (H, W, 3); as tensors (3, H, W) or (B, 3, H, W) in
channels_last memory, so that both views share the same bytes. Sizes are (height, width) in pixels, EXIF applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

FitMode = Literal["crop", "bucket", "pad", "keep"]
DecodeMode = Literal["auto", "exact"]
ImageFormat = Literal["jpeg", "png", "webp"]
PicturedKind = Literal["tile", "blur", "gray", "color", "inpaint"]  # the picture itself, less something
DrawnKind = Literal["canny", "scribble", "softedge", "lineart", "depth", "normal", "pose", "segmentation"]
ConditionKind = Literal[DrawnKind, PicturedKind]
CONDITION_KINDS: tuple[ConditionKind, ...] = get_args(ConditionKind)
PICTURED: tuple[PicturedKind, ...] = get_args(PicturedKind)
Note = Callable[[str, str], None]  # what has to be said (a kind, the same for all of it), and of which file or input
NAMED = 1000  # of a kind, in records; people are shown three
KINDS = 200  # of notes; names of files are anybody's
IMPORTED = "imported"  # stands for an annotator where the maps came with the pictures


@dataclass(frozen=True, slots=True)
class Entry:
    """One input as a source lists it, before anything of it is read. Small: a build plans millions of them."""

    name: str  # stable and unique in its source: relative path, `shard.tar#member`, or row; becomes the `source` column
    stamp: str  # changes when the content changed: size and mtime of the files, or a fingerprint
    offset: int = 0  # where the bytes start (tar) or the row's number (Hugging Face dataset)
    size: int = -1  # how many bytes, -1 when unknown
    text: tuple[str, ...] | None = None  # captions known from the listing (metadata); None: read them with the picture
    problem: str | None = None  # why this input can only be a reject (missing file, path outside the source, ...)
    code: str | None = None  # of the problem, one of condprep.errors.REJECTS
    condition: str | None = None  # relative path of the map that the source has of this picture


@dataclass(frozen=True, slots=True)
class Sample:
    """One input, read: the encoded picture exactly as found and its captions (empty when there are none).

    A row of a dataset to which columns are added has its `columns`, which are kept; its picture is not placed anew.
    """

    name: str
    data: bytes
    text: tuple[str, ...] = ()
    columns: Mapping[str, Any] | None = None
    condition: bytes | None = None  # the encoded map, of a source of pairs
    note: str | None = None  # what has to be said of how its captions were read
    split: str | None = None  # that a row has already, and keeps


@dataclass(frozen=True)
class Notes:
    """What was left out, or not read as it stands, by kind: how many there are, and the first of them by name. A Note."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # kind -> {"count": 7, "names": [...]}, as in JSON

    def __call__(self, kind: str, name: str) -> None:
        self._add(kind, 1, [name])

    def merge(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        for kind, noted in other.items():
            self._add(kind, noted["count"], noted["names"])

    def _add(self, kind: str, count: int, names: Sequence[str]) -> None:
        if kind not in self.found and len(self.found) >= KINDS:
            kind = "and of other kinds"
        noted = self.found.setdefault(kind, {"count": 0, "names": []})
        noted["count"] += count
        noted["names"] += names[: NAMED - len(noted["names"])]


@dataclass(frozen=True, slots=True)
class Reject:
    """One input that did not become a row, and why."""

    source: str
    stage: str  # source, read, decode, fit, annotate, check or curate
    reason: str  # a sentence
    code: str  # what it is counted with: one of condprep.errors.REJECTS, or an annotator's, a check's, a drop's own
    key: str | None = None  # sha256 of the source bytes, where they could be read


@dataclass(frozen=True, slots=True)
class Maps:
    """What an annotator returns for a batch of B pictures."""

    maps: Tensor  # (B, C, H, W) uint8, C in {1, 3}, same H and W as the pictures
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # further columns, B values each


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network has found in a batch of B pictures, from which their maps are then drawn without it."""

    tensors: Sequence[Tensor]  # (B, ...) each, on the device
    found: Sequence[Any]  # B values, on the host
