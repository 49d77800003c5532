"""condprep.as_map: a session as a function for `map` of a Dataset or an IterableDataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any

import pyarrow as pa
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from condprep.annotation.rows import png
from condprep.annotation.session import Session, described
from condprep.annotators.registry import parse
from condprep.dataset.arrow import IMAGE
from condprep.dataset.columns import datasets_features


class BatchMap:
    """Batch in, columns out. It is hashed by what it does, so that a second call of `map` finds the first one's cache."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """A column of PIL pictures for each map, further ones, and `reject`; the pictures' too where `fit` changes them.

        Of a picture that cannot be used they are None, and `reject` says why. rank: with several GPUs, which of them.
        """
        name = self.session.image_key(batch)
        # as they are stored, where that is known: what cannot be decoded is one picture's fault, and not the batch's
        pictures = batch.pa_table[name].to_pylist() if hasattr(batch, "pa_table") else batch[name]
        return self.session_of(rank).columns(map(_opened, pictures), name, StoredPng.of)

    def features(self, features: Mapping[str, Any]) -> Any:
        """For `map(features=...)`: those of the dataset and of what is added; needed where a whole batch may lack a value.

        Loads the annotators, on the CPU, so that processes which are forked afterwards can use a GPU.
        """
        from datasets import Features

        session = described(replace(self.session.description, device="cpu"), keep=False)
        added = {**dict.fromkeys(session.description.wanted, IMAGE), **session.further, "reject": pa.string()}
        return Features({**features, **Features.from_dict(datasets_features(added))})

    def session_of(self, rank: int | None) -> Session:
        """With several GPUs, that of the rank's."""
        described = self.session.description
        if (
            rank is None
            or described.device != "auto"
            or all(parse(one.name)[0].cpu_only for one in described.wanted.values())
        ):
            return self.session
        import torch

        gpus = torch.cuda.device_count()  # asks the driver, and does not begin to use a GPU
        return self.session.on(f"cuda:{rank % gpus}") if gpus else self.session


def as_map(annotators: str | Sequence[str] = (), **how: Any) -> BatchMap:
    """For `dataset.map(condprep.as_map("hed"), batched=True, with_rank=True)`; how: what `Session` takes.

    The same call gives the same fingerprint in every process, whose second run is read from the cache; each rank takes
    one GPU. Raises UsageError for what the caller got wrong.
    """
    return BatchMap(Session(annotators, **how))


class StoredPng(PngImageFile):
    """A picture of which only the PNG is held until somebody looks at it, and which is saved as that.

    A batch of `datasets` is a thousand pictures, whose pixels may be gigabytes; it would compress them one after the
    other, too.
    """

    _data: bytes | None = None  # none of one that was pickled, which holds its pixels

    def __init__(self, data: bytes) -> None:
        super().__init__(BytesIO(data))
        self._data = data

    @classmethod
    def of(cls, picture: Image.Image) -> StoredPng:
        return cls(png(picture))

    def load(self) -> Any:
        """From here on its pixels may be changed, so they are what is saved."""
        self._data = None
        return super().load()

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        if self._data is not None and format == "PNG" and not params and hasattr(fp, "write"):
            fp.write(self._data)
        else:
            super().save(fp, format, **params)


def _opened(picture: Any) -> Any:
    """A picture that lies where only `datasets` can read it ("hf://...", "zip://...")."""
    if isinstance(picture, Mapping) and not picture.get("bytes") and "://" in (picture.get("path") or ""):
        import datasets

        with suppress(Exception):  # of whatever storage; then it is a picture that is not there
            return datasets.Image().decode_example(dict(picture))
    return picture
