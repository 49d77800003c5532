"""The columns of a dataset: their order, their names, and how `datasets` describes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from condprep.dataset.arrow import IMAGE
from condprep.errors import DatasetError

_KEY = re.compile("[0-9a-f]{16}")  # by which rows are split: the beginning of a sha256


def further_column(column: str, annotator: str, name: str) -> str:
    """Where an annotator's further column goes: `keypoints`, or `keypoints_blaze` when its map is `openpose_blaze`."""
    return name + column.removeprefix(annotator)


def columns(
    maps: Sequence[str],
    further: Mapping[str, pa.DataType],
    *,
    captions: Literal["first", "list"] = "first",
    base: Mapping[str, pa.DataType] | None = None,
) -> dict[str, pa.DataType]:
    """The columns in their order, which is the one that diffusers' script guesses by.

    maps: a column for each annotator; a single one is `conditioning_image` and has no other. further: what the annotators
    return beside their maps. captions: one a row, or a list. base: the columns of the dataset to which these are added.
    """
    images = dict.fromkeys(maps, IMAGE)
    if base:
        names = list(base)
        first = names.index("key")
        before, after = ({name: base[name] for name in part} for part in (names[:first], names[first:]))
        return before | images | after | dict(further)
    text = pa.string() if captions == "first" else pa.list_(pa.string())
    return (
        {"image": IMAGE, "text": text, "conditioning_image": IMAGE}
        | (images if len(maps) > 1 else {})
        | {"key": pa.string(), "source": pa.string(), "width": pa.int32(), "height": pa.int32()}
        | {"transform": pa.list_(pa.float64()), "empty": pa.bool_()}
        | dict(further)
    )


def check_own(table: str, kinds: pa.Schema) -> None:
    """Raises DatasetError where a table is not of the columns that condprep writes: it was changed since, or is a stranger's."""
    found = dict(zip(kinds.names, kinds.types))
    text = found.get("text")
    texts = pa.list_(pa.string()) if text and pa.types.is_list(text) else pa.string()
    own = {"image": IMAGE, "conditioning_image": IMAGE, "text": texts, "key": pa.string(), "source": pa.string()}
    for name, kind in own.items():
        if found.get(name) != kind:
            said = f"is of type {found[name]!s:.80}" if name in found else "is missing"
            raise DatasetError(f"{table} is no table of condprep: its column {name!r} {said}; build the dataset anew")


def check_named(table: str, key: str | None, source: str | None) -> None:
    """Raises DatasetError for a row whose key is no sha256, or that has no source: it was changed since, or is a stranger's."""
    if not (key and source and _KEY.match(key)):
        raise DatasetError(
            f"{table} has a row with the key {key!r:.80} and the source {source!r:.80}, which condprep did not write; "
            "build the dataset anew"
        )


def arrow_schema(kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns with what `datasets` reads from an Arrow or Parquet file's metadata."""
    info = json.dumps({"info": {"features": datasets_features(kinds)}})
    return pa.schema(kinds).with_metadata({"huggingface": info})


def datasets_features(kinds: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """The columns in the words of `datasets.Features.to_dict`, without the second that importing `datasets` takes."""
    return {name: _feature(kind) for name, kind in kinds.items()}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}
