"""An annotator that counts how often it is loaded and called, and whose maps tell the pictures apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import Tensor

from condprep import AnnotatorSpec, Maps, Session
from condprep.annotators import registry
from condprep.annotators.base import BaseAnnotator


class Counting(BaseAnnotator):
    """Its map is the green of the picture, and it takes batches as a network does."""

    name, variant, batch_size, binary = "counting", "", 4, False
    columns: ClassVar = {}
    loads: ClassVar[list[str]] = []  # the devices onto which it was loaded

    def __init__(self, device: str, weights: dict[str, str]) -> None:
        self.device, self.batches = device, 0
        self.provenance = {"parameters": {}, "weights": weights, "licence": "none", "commercial": True}
        self.loads.append(device)

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        self.batches += 1
        return Maps(rgb[:, 1:2])


def install(monkeypatch: pytest.MonkeyPatch, **weights: str) -> type[Counting]:
    """`counting` in the table of annotators, with these weights; it has not been loaded yet."""

    def load(variant: str, params: Any, *, device: str, weights: Any) -> Counting:
        return Counting(device, dict(found))

    found = weights
    spec = AnnotatorSpec("counting", "", load=load)
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, spec))
    Counting.loads.clear()
    return Counting


def edges(session: Session, picture: np.ndarray) -> bytes:
    """The first map of a picture; in a module that processes which were spawned can import."""
    (result,) = session([picture])
    return next(iter(result.maps.values())).tobytes()  # type: ignore[union-attr]
