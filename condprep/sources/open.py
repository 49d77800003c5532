"""Where pictures come from: `open_source` recognises a folder, an imagefolder, a Hugging Face dataset or tars."""

from __future__ import annotations

from pathlib import Path

from condprep.errors import SourceError
from condprep.sources.base import Source, existing_folder
from condprep.sources.recognise import recognise

SOURCE_KINDS = ("folder", "imagefolder", "huggingface", "webdataset")


def open_source(
    path: str | Path,
    kind: str | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    exclude: Path | None = None,
) -> Source:
    """The source at `path`: a folder, a metadata file, Parquet, a .tar, a pattern of tars, or a dataset on the Hub.

    kind: one of SOURCE_KINDS; recognised where it is not given.
    image_column, caption_column: the columns to take in an imagefolder or Hugging Face dataset; for tars the extension
        of the pictures ("seg.png") and the field of the .json with the captions.
    split: of a Hugging Face dataset, or the sub-folder of an imagefolder.
    exclude: a folder that is never part of a folder source (the output).

    Raises SourceError where the path, the kind and the options do not fit together.
    """
    path = str(path)
    kind = kind or recognise(path)
    columns = {"--image-column": image_column, "--caption-column": caption_column}
    if kind == "folder":
        from condprep.sources.folder import FolderSource

        _refuse("a folder of pictures", columns | {"--split": split})
        return FolderSource(existing_folder(path), exclude)
    if kind == "imagefolder":
        from condprep.sources.imagefolder import ImagefolderSource, find_metadata

        return ImagefolderSource(find_metadata(path, split), image_column or "file_name", caption_column, split)
    if kind == "huggingface":
        from condprep.sources.huggingface import open_huggingface

        return open_huggingface(path, image_column=image_column, caption_column=caption_column, split=split)
    if kind == "webdataset":
        from condprep.sources.tar import find_tars
        from condprep.sources.webdataset import WebDatasetSource

        _refuse("a WebDataset", {"--split": split})
        return WebDatasetSource(find_tars(path), image_column, caption_column)
    raise SourceError(f"unknown kind of source {kind!r}; known: {', '.join(SOURCE_KINDS)}")


def _refuse(what: str, options: dict[str, str | None]) -> None:
    for option, value in options.items():
        if value is not None:
            raise SourceError(f"{option} {value!r} means nothing for {what}")
