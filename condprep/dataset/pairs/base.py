"""What a paired dataset is to the checks: an iterator of pairs, and what was guessed to read it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from condprep.annotators.kinds import kind_of_annotator
from condprep.errors import Rejected, SourceError
from condprep.types import PICTURED, Entry, Sample

FARTHEST = 1e5  # pixels, and times a picture is scaled: a transform of more is not believed
# Names by which pictures, maps and captions are known, the usual one first. They are those of columns and of folders.
IMAGE_NAMES = (
    "image",
    "images",
    "target",
    "targets",
    "img",
    "picture",
    "pictures",
    "photo",
    "photos",
    "jpg",
    "file_name",
)
CONDITION_NAMES = (
    *("conditioning_image", "conditioning_images", "conditioning", "condition", "conditions", "cond"),
    *("conditioning_image_file_name", "control_image", "control_images", "control", "controls", "hint", "hints"),
    *("source", "sources", "guide", "map", "maps", "edge", "edges", "canny", "hed", "softedge", "scribble", "lineart"),
    *("depth", "normal", "normals", "pose", "poses", "openpose", "seg", "segmentation", "mask", "masks"),
    *("tile", "blur", "gray", "grey", "color", "inpaint"),
)
CAPTION_NAMES = ("text", "caption", "captions", "prompt", "prompts")
KEY_NAMES = ("key", "__key__")
_KINDS: dict[str, str] = {  # columns and folders
    **{"canny": "canny", "hed": "softedge", "softedge": "softedge", "scribble": "scribble", "lineart": "lineart"},
    **{"depth": "depth", "normal": "normal", "normals": "normal", "pose": "pose", "poses": "pose", "openpose": "pose"},
    **{"seg": "segmentation", "segmentation": "segmentation", "grey": "gray"},
    **dict(zip(PICTURED, PICTURED)),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture, its map and its caption, encoded exactly as found."""

    row: int | None  # its number in the dataset, from 0; None: no row, but a damaged file or a picture without a map
    key: str  # what the dataset calls it: its key column, the stem of its files, else "train:17", its number in the split
    image: bytes = b""
    condition: bytes = b""
    caption: Any = None  # whatever the dataset holds: a string, a list of strings, None, anything
    problem: str | None = None  # why one of them cannot be read; the other is there all the same
    split: str | None = None  # of a dataset that has splits
    padding: tuple[int, int] = (
        0,
        0,
    )  # pixels of black that its build put above and left; opposite as many, or one more
    further: bytes = b""  # the picture of a further column, where one is read
    further_conditions: Sequence[bytes] = ()  # maps of further columns, where some are read
    further_captions: Sequence[Any] = ()  # what further columns hold, where some are read
    source: str | None = None  # the file, member or row that the picture comes from
    transform: Sequence[float] | None = None  # source pixel -> stored pixel, [sx, 0, tx, 0, sy, ty], where it is known


@dataclass(frozen=True, slots=True)
class Made:
    """How a build says that it made the maps. No more trusted than the rows."""

    annotator: str  # "openpose:blaze"
    params: Mapping[str, Any]  # as its user set them
    weights: Mapping[str, str]  # file -> sha256
    column: str  # into which it wrote them, which may be another one than they are read from

    @property
    def kind(self) -> str | None:
        """One of condprep.types.CONDITION_KINDS."""
        name, _, variant = self.annotator.partition(":")
        return kind_of_annotator(name, variant)


def readable(read: Callable[[], bytes]) -> bytes:
    """A picture or map of a row that has a problem; nothing where this is it."""
    with suppress(Rejected):
        return read()
    return b""


class Pairs(Protocol):
    """A paired dataset. Iterating gives every pair in the dataset's order, in bounded memory, as often as one likes."""

    @property
    def notes(self) -> Sequence[str]:
        """What was guessed, for people."""
        ...

    @property
    def said(self) -> str | None:
        """The kind of condition that the dataset says it has, one of condprep.types.CONDITION_KINDS."""
        ...

    @property
    def made(self) -> Made | None:
        """How its maps were made, where a build of condprep wrote it down."""
        ...

    @property
    def captioned(self) -> bool:
        """Whether it has captions at all."""
        ...

    @property
    def keyed(self) -> bool:
        """Whether its keys are its own, and must differ."""
        ...

    @property
    def stamp(self) -> str:
        """Changes when the content changed, as sizes and times of the files tell."""
        ...

    def __iter__(self) -> Iterator[Pair]: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """How it is read, as JSON without paths: what must not change while it is imported."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every pair as an input of a build, nothing of it read; a damaged file or an orphan with its `problem`."""
        ...

    def sample(self, entry: Entry) -> Sample:
        """The encoded picture with its map and captions. Thread-safe. Raises Rejected("read", reason)."""
        ...

    def known_rows(self) -> int | None:
        """How many rows there are, damaged ones too, where that is known without reading them."""
        ...

    def read(self, only: Container[int] | None = None) -> Iterator[Pair]:
        """The pairs of these row numbers, in order, and nothing is read of the others; None: every pair, as iterating."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what."""

    image: str
    condition: str
    caption: str | None
    key: str | None
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(filter(None, (self.image, self.condition, self.caption, self.key))))


def padding(transform: Any) -> tuple[int, int]:
    """(top, left) pixels, of a row's `transform`, [sx, 0, tx, 0, sy, ty]; (0, 0) where it is no such list."""
    if not isinstance(transform, list) or len(transform) != 6:
        return 0, 0
    left, top = (round(at) if isinstance(at, float) and math.isfinite(at) else 0 for at in transform[2::3])
    return max(0, top), max(0, left)


def read_transform(value: Any) -> list[float] | None:
    """A row's `transform`, [sx, 0, tx, 0, sy, ty]; None where it is no such list, since rows may be anybody's."""
    if not isinstance(value, list) or len(value) != 6:
        return None
    if not all(isinstance(one, float) and abs(one) < FARTHEST for one in value):
        return None
    return value if min(value[0], value[4]) > 1 / FARTHEST and not (value[1] or value[3]) else None


def digest(stamps: Iterable[str]) -> str:
    """One stamp of many."""
    found = sha256()
    for one in stamps:
        found.update(f"{one}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def choose_columns(pictures: Sequence[str], others: Sequence[str], wanted: Mapping[str, str | None]) -> Columns:
    """The columns of pictures, maps and captions among those that can be that.

    wanted: {"image": ..., "condition": ..., "caption": ...}, what the user named. Of two picture columns one is enough to
    know the other. Raises SourceError that lists the columns where that is not clear.
    """
    known = [*pictures, *others]
    for role in ("image", "condition"):
        _check_wanted(role, wanted[role], pictures, known)
    _check_wanted("caption", wanted["caption"], known, known)
    image = wanted["image"] or _first(IMAGE_NAMES, pictures, besides=wanted["condition"])
    condition = wanted["condition"] or _first(CONDITION_NAMES, pictures, besides=image)
    if len(pictures) == 2 and (image or condition):
        image = image or next(name for name in pictures if name != condition)
        condition = condition or next(name for name in pictures if name != image)
    if not image or not condition:
        raise SourceError(_unclear("image" if not image else "condition", pictures, known))
    if image == condition:
        raise SourceError(f"--image-column and --condition-column are both {image!r}; a pair needs two")
    caption = wanted["caption"] or _first(CAPTION_NAMES, others)
    return Columns(image, condition, caption, _first(KEY_NAMES, others), _guesses(wanted, image, condition, caption))


def _check_wanted(role: str, name: str | None, possible: Sequence[str], known: Sequence[str]) -> None:
    if name is None or name in possible:
        return
    if name in known:
        raise SourceError(f"--{role}-column {name!r} holds no pictures; those that do: {', '.join(possible) or 'none'}")
    near = difflib.get_close_matches(name, possible, n=1)
    meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(possible) or 'none'}"
    raise SourceError(f"--{role}-column {name!r} is not there{meant}")


def _unclear(role: str, pictures: Sequence[str], known: Sequence[str]) -> str:
    if len(pictures) >= 2:
        return f"which of {', '.join(pictures)} holds the {role}s is unclear; name it with --{role}-column"
    found = f"only {pictures[0]!r} holds pictures" if pictures else "no column holds pictures (strings are not read)"
    return f"a pair needs a picture and a condition map, but {found}; the columns are {', '.join(known) or 'none'}"


def _guesses(wanted: Mapping[str, str | None], image: str, condition: str, caption: str | None) -> tuple[str, ...]:
    """What the user did not say, in words; nothing where it is as in every training script."""
    notes = []
    if (image, condition) != (wanted["image"] or "image", wanted["condition"] or "conditioning_image"):
        notes.append(f"taking {image!r} for the pictures and {condition!r} for the condition maps")
    if caption is None:
        notes.append("no captions were found (name their column with --caption-column); they are not checked")
    elif caption != (wanted["caption"] or "text"):
        notes.append(f"taking {caption!r} for the captions")
    return tuple(notes)


def _first(names: Sequence[str], among: Sequence[str], besides: str | None = None) -> str | None:
    """The column whose name, in any case, comes first in `names`."""
    there = {name.lower(): name for name in reversed(among) if name != besides}
    return next((there[name] for name in names if name in there), None)


def kind_of_name(name: str) -> str | None:
    """The kind that the name of a column or a folder says."""
    return _KINDS.get(name.lower())
