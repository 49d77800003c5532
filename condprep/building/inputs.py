"""What a build reads: a source of pictures, or a dataset of pairs whose maps are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from condprep.building.paired_source import open_paired
from condprep.errors import SourceError
from condprep.runtime.storage import Place
from condprep.sources import open as sources
from condprep.sources.base import Source

INPUT_KINDS = (*sources.SOURCE_KINDS, "pairs")


def open_inputs(
    path: str | Path,
    kind: str | None = None,
    *,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
    all_captions: bool = True,
    follow_links: Sequence[Path] = (),
    exclude: Place | None = None,
) -> Source:
    """The pictures at `path` (see `condprep.sources.open.open_source`), or for the kind "pairs" its pictures and maps.

    kind: one of INPUT_KINDS; of pictures it is recognised where it is not given. condition_column: of "pairs", the column or
    folder of the maps. Raises SourceError where the path, the kind and the options do not fit together.
    """
    if kind == "pairs":
        named = {"image": image_column, "condition": condition_column, "caption": caption_column}
        return open_paired(str(path), named, split, config, follow_links)
    if kind and kind not in INPUT_KINDS:
        raise SourceError(f"unknown kind of source {kind!r}; known: {', '.join(INPUT_KINDS)}")
    if condition_column is not None:
        raise SourceError(
            f"--condition-column {condition_column!r} means nothing for pictures that get their maps from an annotator"
        )
    return sources.open_source(
        path,
        kind,
        image_column=image_column,
        caption_column=caption_column,
        split=split,
        config=config,
        all_captions=all_captions,
        follow_links=follow_links,
        exclude=exclude,
    )
