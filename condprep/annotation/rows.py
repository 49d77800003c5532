"""What a session makes of rows: of data frames, of samples of a stream, of a batch that is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from condprep.annotation.description import Description
from condprep.annotation.pictures import Annotated, Picture
from condprep.errors import UsageError
from condprep.images.encode import encode_map, encode_picture
from condprep.types import ImageFormat, Reject

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

FORMATS: Mapping[str, ImageFormat] = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}  # keys of WebDataset; others: PNG

Encode = Callable[[Image.Image], Any]
R = TypeVar("R")
Finish = Callable[[int, Annotated | Reject], R]  # a picture's number and its result -> what is wanted of it


class RowSession(ABC):
    """Rows with their maps, by whoever makes maps of pictures."""

    description: Description

    @abstractmethod
    def __call__(self, images: Iterable[Picture]) -> list[Annotated | Reject]:
        """Maps of `images`, in their order; a picture that cannot be read or annotated is a Reject with its reason."""

    @abstractmethod
    def stream(self, images: Iterable[Picture], finish: Finish[R]) -> Iterator[R]:
        """finish(number, result) of each of `images`, in their order, as they come: done by a thread."""

    @property
    @abstractmethod
    def further(self) -> Mapping[str, pa.DataType]:
        """What there is beside the maps: column -> type."""

    @property
    def changes_pictures(self) -> bool:
        """Whether the pictures that were annotated are others than those that were given, so that rows need them."""
        return self.description.geometry.fit != "keep"

    def columns(self, images: Iterable[Picture], image: str, encode: Encode) -> dict[str, list[Any]]:
        """Column -> a value for each picture: each map and, where they are changed, the pictures as `image`, encoded;
        what the annotators found besides; and `reject`."""
        made = list(self.stream(images, lambda _, result: self._row(result, image, encode)))
        names = [*([image] if self.changes_pictures else []), *self.description.wanted, *self.further, "reject"]
        return {name: [row.get(name) for row in made] for name in names}

    def _row(self, result: Annotated | Reject, image: str, encode: Encode) -> dict[str, Any]:
        """What is added to a row; nothing but `reject` where that says why."""
        if isinstance(result, Reject):
            return {"reject": f"{result.stage}: {result.reason}"}
        pictures = {image: result.image, **result.maps} if self.changes_pictures else result.maps
        return {**{name: encode(picture) for name, picture in pictures.items()}, **result.columns, "reject": ""}

    def table(self, images: Iterable[Picture]) -> dict[str, list[Any]]:
        """Columns for a data frame: each map as PNG, what the annotators found besides, and `reject`.

        images: a column of bytes, or of paths. A picture that cannot be used has None, and `reject` says why; else that
        is "". With a `fit` that changes pictures there is also `image`, as PNG what the annotators saw.
        """
        return self.columns(images, "image", png)

    def sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """One row with its maps: for WebDataset's `.map`, or the transform of a Dataset of torch."""
        (row,) = self.samples([sample])
        return row

    def samples(self, samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows with their maps, one for each that comes, networks looking at batches: for WebDataset's `.compose`.

        A map is what the picture is: PNG, a PIL picture or an array. It is None where `reject` says why, which else is
        "". Rows with a `__key__` are WebDataset's, and name files of a tar: "canny.png", "keypoints.json", "reject.txt".
        """
        under_way: dict[int, Mapping[str, Any]] = {}

        def pictures() -> Iterator[Any]:
            for number, sample in enumerate(samples):
                under_way[number] = sample
                yield sample[self.image_key(sample)]

        yield from self.stream(pictures(), lambda number, result: self._beside(under_way.pop(number), result))

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of tensors from rows, for a DataLoader's `collate_fn`.

        The pictures (B, 3, H, W) and each map (B, 1 or 3, H, W) are uint8, other keys as torch collates them. `reject`
        is the list of Rejects, whose rows are left out. Raises UsageError for pictures of several sizes.
        """
        from torch.utils.data import default_collate

        image = self.image_key(samples[0])
        results = self([one[self.image_key(one)] for one in samples])
        kept = [(sample, one) for sample, one in zip(samples, results) if isinstance(one, Annotated)]
        batch: dict[str, Any] = {
            key: default_collate([sample[key] for sample, _ in kept])
            for key in (kept[0][0] if kept else ())
            if key != image
        }
        batch[image] = _stacked([one.image for _, one in kept])
        batch |= {column: _stacked([one.maps[column] for _, one in kept]) for column in self.description.wanted}
        batch |= {name: [one.columns[name] for _, one in kept] for name in self.further}
        return batch | {"reject": [one for one in results if isinstance(one, Reject)]}

    def image_key(self, row: Any) -> str:
        """Under which key a row has its picture. Raises UsageError where it has none."""
        wanted = self.description.image.split(";")
        if isinstance(row, Mapping):
            for name in wanted:
                if name in row:
                    return name
        there = f"the keys {', '.join(map(repr, row))}" if isinstance(row, Mapping) else f"a {type(row).__name__}"
        raise UsageError(f"a row is {there} and has no picture {' or '.join(map(repr, wanted))}: say image=KEY")

    def _beside(self, sample: Mapping[str, Any], result: Annotated | Reject) -> dict[str, Any]:
        """The row, and what is added to it."""
        name = self.image_key(sample)
        given = sample[name]
        made = self._row(result, name, lambda picture: as_given(given, picture))
        if isinstance(made.get(name), bytes) and isinstance(result, Annotated) and name in FORMATS:
            made[name] = encode_picture(np.asarray(result.image), FORMATS[name])
        endings = {
            **dict.fromkeys(self.description.wanted, ".png"),
            **dict.fromkeys(self.further, ".json"),
            "reject": ".txt",
        }
        in_tar = "__key__" in sample
        changed = {name: made.get(name)} if self.changes_pictures else {}
        return {**sample, **changed, **{key + ending * in_tar: made.get(key) for key, ending in endings.items()}}


def png(picture: Image.Image) -> bytes:
    """A map, or a picture, of 8 bits a value."""
    return encode_map(np.asarray(picture), binary=False)


def as_given(given: Any, made: Image.Image) -> Any:
    """What was made of a picture, in the form in which that was given."""
    if isinstance(given, np.ndarray):
        return np.asarray(made)
    if isinstance(given, Image.Image | str | Path):
        return made
    return {"bytes": png(made), "path": None} if isinstance(given, Mapping) else png(made)


def _stacked(pictures: Sequence[Image.Image]) -> Tensor:
    """(B, C, H, W) uint8; without any picture a tensor of no elements."""
    import torch

    if sizes := {picture.size for picture in pictures} - {pictures[0].size if pictures else None}:
        width, height = sizes.pop()
        raise UsageError(
            f"pictures of {pictures[0].width} x {pictures[0].height} and of {width} x {height} px are no batch: "
            "give the session fit='crop' or 'pad', or sort the rows by their size"
        )
    if not pictures:
        return torch.empty(0, dtype=torch.uint8)
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked if stacked.ndim == 4 else stacked[..., None]).permute(0, 3, 1, 2).contiguous()
