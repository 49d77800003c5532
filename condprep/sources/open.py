"""Where pictures come from: `open_source` recognises a folder, an imagefolder, a Hugging Face dataset, tars or zips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from condprep.errors import SourceError
from condprep.runtime.storage import Place, Remote, is_url
from condprep.sources.base import Source, Where, no_bucket, source_place
from condprep.sources.kinds import existing_folder
from condprep.sources.recognise import recognise

SOURCE_KINDS = ("folder", "imagefolder", "huggingface", "webdataset", "zip")


def open_source(
    path: str | Path,
    kind: str | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
    all_captions: bool = True,
    follow_links: Sequence[Path] = (),
    exclude: Place | None = None,
) -> Source:
    """The source at `path`: a folder, a listing, Parquet, a .tar, a pattern of tars, a .zip, or a dataset on the Hub.

    path: of this machine, or a URL (s3://, gs://, hf://datasets/, memory://).
    kind: one of SOURCE_KINDS; recognised where it is not given.
    config: of a dataset that has several, in its README.md or on the Hub.
    all_captions: of a picture; else one is enough, and a caption file of several lines is one caption.
    follow_links: folders outside of the source that links, and paths in rows, may lead to.
    exclude: a folder whose pictures are no inputs.
    Raises SourceError where the path, the kind and the options do not fit together.
    """
    try:
        found = source_place(str(path))
        where = found if isinstance(found, Remote) else str(path)
        return _open(where, kind, image_column, caption_column, split, config, all_captions, follow_links, exclude)
    except FileNotFoundError:
        if not is_url(path):
            raise
        raise no_bucket(str(path)) from None


def _open(
    path: Where,
    kind: str | None,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None,
    all_captions: bool,
    follow_links: Sequence[Path],
    exclude: Place | None,
) -> Source:
    recognised = kind is None
    kind = kind or recognise(path, exclude)
    if recognised and kind == "folder" and (split is not None or config is not None):
        kind = "imagefolder"
    also = tuple(follow_links)
    columns = {"image_column": image_column, "caption_column": caption_column}
    if kind == "folder":
        from condprep.sources.folder import FolderSource

        named = {"--image-column": image_column, "--caption-column": caption_column}
        _refuse("a folder of pictures", named | {"--split": split, "--config": config})
        return FolderSource(existing_folder(source_place(path)), exclude, all_captions)
    if kind == "imagefolder":
        from condprep.sources.imagefolder import open_imagefolder

        return open_imagefolder(
            path, **columns, split=split, config=config, gather=all_captions, also=also, exclude=exclude
        )
    if kind == "huggingface":
        from condprep.sources.huggingface import open_huggingface

        return open_huggingface(path, **columns, split=split, config=config, also=also)
    if kind == "webdataset":
        from condprep.sources.tar import find_tars
        from condprep.sources.webdataset import WebDatasetSource

        return WebDatasetSource(find_tars(path, split, config), image_column, caption_column, all_captions)
    if kind == "zip":
        from condprep.sources.zipped import open_zips

        return open_zips(path, **columns, split=split, config=config, gather=all_captions)
    raise SourceError(f"unknown kind of source {kind!r}; known: {', '.join(SOURCE_KINDS)}")


def _refuse(what: str, options: dict[str, str | None]) -> None:
    for option, value in options.items():
        if value is not None:
            raise SourceError(f"{option} {value!r} means nothing for {what}")
