"""Reading any paired dataset: `open_pairs` recognises Arrow, Parquet, a listing, two folders, or a name on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from condprep.dataset.pairs.base import Pair, Pairs
from condprep.errors import SourceError
from condprep.sources.recognise import HUB_NAME

__all__ = ["Pair", "Pairs", "open_pairs", "reopen"]


def open_pairs(
    path: str | Path,
    *,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    config: str | None = None,
    follow_links: Sequence[Path] = (),
) -> Pairs:
    """The pairs of a dataset: a folder of Arrow or Parquet files, one such file, a listing (prompt.json, metadata.jsonl),
    a folder that holds two folders of pictures, a name on the Hub, or tables at a URL.

    The columns (of two folders: the folders) are guessed by their names where they are not given, and `notes` says
    what was guessed. config: of a dataset with several, in its README.md or on the Hub. follow_links: folders outside of the
    dataset that links, and paths in rows, may lead to. Raises SourceError where there is no dataset, or it is not clear what is the picture and what the
    map; DatasetError where no file of it can be read.
    """
    from condprep.dataset.pairs.files import READERS, find_listing, open_folders, open_listing
    from condprep.dataset.pairs.table import open_hub, open_table
    from condprep.dataset.reader import SAVED, Shard, shards
    from condprep.dataset.remote import here
    from condprep.sources.huggingface import find_parquet

    also = tuple(follow_links)
    wanted = {"image": image_column, "condition": condition_column, "caption": caption_column}
    place = here(path)
    if place.is_dir():
        if found := find_listing(place):
            return open_listing(found, wanted, also)
        tables = any((place / name).exists() for name in (".condprep", *SAVED))
        tables = tables or any(any(place.glob(pattern)) for pattern in _TABLES) or bool(find_parquet(place))
        return open_table(shards(place, config), place, wanted, also) if tables else open_folders(place, wanted)
    if place.is_file():
        if place.suffix in (".arrow", ".parquet") and not place.name.startswith("metadata."):
            return open_table([Shard(place, "train")], place.parent, wanted, also)
        if place.suffix.lower() in READERS:
            return open_listing(place, wanted, also)
        raise SourceError(f"{str(path)!r} is no dataset: give a folder, an Arrow or Parquet file, or a listing")
    if HUB_NAME.fullmatch(str(path)) and not place.parent.is_dir():  # else it is a slip in a path: do not ask the Hub
        return open_hub(str(path), wanted, config, also)
    raise SourceError(f"there is no file or folder {str(path)!r}")


def reopen(
    path: str | os.PathLike[str],
    columns: Mapping[str, str | None],
    config: str | None = None,
    follow_links: Sequence[Path] = (),
) -> Pairs:
    """`open_pairs` with columns as {"image": ..., "condition": ..., "caption": ...}."""
    return open_pairs(
        os.fspath(path),
        image_column=columns["image"],
        condition_column=columns["condition"],
        caption_column=columns["caption"],
        config=config,
        follow_links=follow_links,
    )


_TABLES = ("*.arrow", "*/*.arrow")
