"""What a session makes of rows: of data frames, of samples of a stream, of a batch that is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from condprep.annotation.description import Description
from condprep.annotation.pictures import Annotated, Picture
from condprep.errors import UsageError
from condprep.images.encode import encode_map, encode_picture
from condprep.runtime.concurrency import lots
from condprep.types import ImageFormat, Reject

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

LOT = 128  # samples of a stream that are looked at together: some batches for the networks
FORMATS: Mapping[str, ImageFormat] = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}  # keys of WebDataset; others: PNG

Encode = Callable[[Image.Image], Any]


class RowSession(ABC):
    """Rows with their maps, by whoever makes maps of pictures."""

    description: Description

    @abstractmethod
    def __call__(self, images: Iterable[Picture]) -> list[Annotated | Reject]:
        """Maps of `images`, in their order; a picture that cannot be read or annotated is a Reject with its reason."""

    @property
    @abstractmethod
    def further(self) -> Mapping[str, pa.DataType]:
        """What there is beside the maps: column -> type."""

    @property
    def changes_pictures(self) -> bool:
        """Whether the pictures that were annotated are others than those that were given, so that rows need them."""
        return self.description.geometry.fit != "keep"

    def columns(
        self, images: Iterable[Picture], image: str, encode: Encode = lambda picture: picture
    ) -> dict[str, Any]:
        """Column -> a value for each picture: each map and, where they are changed, the pictures as `image`, encoded;
        what the annotators found besides; and `reject`."""
        results = self(images)
        good = [result if isinstance(result, Annotated) else None for result in results]
        pictures = {image: [one and encode(one.image) for one in good]} if self.changes_pictures else {}
        return {
            **pictures,
            **{column: [one and encode(one.maps[column]) for one in good] for column in self.description.wanted},
            **{name: [one and one.columns[name] for one in good] for name in self.further},
            "reject": [said(result) for result in results],
        }

    def table(self, images: Iterable[Picture]) -> dict[str, list[Any]]:
        """Columns for a data frame: each map as PNG, what the annotators found besides, and `reject`.

        images: a column of bytes, or of paths. A picture that cannot be used has None, and `reject` says why; else that
        is "". With a `fit` that changes pictures there is also `image`, as PNG what the annotators saw.
        """
        return self.columns(images, "image", png)

    def sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """One row with its maps: for WebDataset's `.map`, or the transform of a Dataset of torch."""
        return next(self.samples([sample]))

    def samples(self, samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows with their maps, one for each that comes, some batches at a time: for WebDataset's `.compose`.

        A map is what the picture is: PNG, a PIL picture or an array. It is None where `reject` says why, which else is
        "". Rows with a `__key__` are WebDataset's, and name files of a tar: "canny.png", "keypoints.json", "reject.txt".
        """
        for lot in lots(samples, LOT):
            found = self.columns([one[self.image_key(one)] for one in lot], "image")
            for number, sample in enumerate(lot):
                yield self._beside(sample, {column: values[number] for column, values in found.items()})

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

    def _beside(self, sample: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        name, row, in_tar = self.image_key(sample), dict(sample), "__key__" in sample
        given = row[name]
        if self.changes_pictures:
            row[name] = found["image"] and as_given(given, found["image"], FORMATS.get(name, "png"))
        for column in self.description.wanted:
            row[f"{column}.png" if in_tar else column] = found[column] and as_given(given, found[column])
        row |= {f"{column}.json" if in_tar else column: found[column] for column in self.further}
        return row | {"reject.txt" if in_tar else "reject": found["reject"]}


def said(result: Annotated | Reject) -> str:
    """ "decode: truncated JPEG", or "" of what is no reject."""
    return f"{result.stage}: {result.reason}" if isinstance(result, Reject) else ""


def png(picture: Image.Image) -> bytes:
    """A map, or a picture, of 8 bits a value."""
    return encode_map(np.asarray(picture), binary=False)


def as_given(given: Any, made: Image.Image, image_format: ImageFormat = "png") -> Any:
    """What was made of a picture, in the form in which that was given."""
    if isinstance(given, np.ndarray):
        return np.asarray(made)
    if isinstance(given, Image.Image | str | Path):
        return made
    data = png(made) if image_format == "png" else encode_picture(np.asarray(made), image_format)
    return {"bytes": data, "path": None} if isinstance(given, Mapping) else data


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
