"""condprep.RayAnnotator: a session as a class for `map_batches` of Ray Data. Does without ray being imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from condprep.annotation.rows import png
from condprep.annotation.session import Session


class RayAnnotator:
    """An actor of `dataset.map_batches(condprep.RayAnnotator, fn_constructor_args=["hed"], num_gpus=1, ...)`."""

    def __init__(self, annotators: str | Sequence[str] = (), **how: Any) -> None:
        """What `Session` takes. The annotators are loaded here, once for each actor."""
        self.session = Session(annotators, **how)
        self.session.load()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch in numpy with its maps: PNG where the pictures are bytes, arrays where they are arrays; and `reject`."""
        name = self.session.image_key(batch)
        arrays = any(isinstance(picture, np.ndarray) for picture in batch[name])
        found = self.session.columns(batch[name], name, np.asarray if arrays else png)
        return {**batch, **{column: _array(values) for column, values in found.items()}}


def _array(values: list[Any]) -> np.ndarray:
    """One dimension of objects, for pictures of several sizes; where all are arrays of one shape, one array of them."""
    if (
        values
        and all(isinstance(value, np.ndarray) for value in values)
        and len({value.shape for value in values}) == 1
    ):
        return np.stack(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column
