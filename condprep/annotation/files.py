"""Maps of picture files as files: what `condprep annotate` does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from condprep.annotation.annotate import annotate
from condprep.annotation.pictures import Annotated
from condprep.errors import UsageError
from condprep.images.files import commit_picture
from condprep.runtime.files import commit_json
from condprep.sources.base import native
from condprep.sources.folder import FolderSource
from condprep.types import Reject


def annotate_files(
    images: Sequence[Path], out: Path, *, pictures: bool = False, overwrite: bool = False, **how: Any
) -> tuple[list[Path], list[Reject]]:
    """Maps of picture files as `out/NAME.png` (`NAME.COLUMN.png` of several annotators), keypoints as `NAME.json`.

    Of a folder, all pictures in it and below, as a build finds them. pictures: also `NAME.image.png`, the picture as the annotators saw it. how: what `annotate` takes. Returns the files
    written and the pictures that could not be read. Raises UsageError, before anything is written, where a file is there
    already and `overwrite` is not said, and where it is one of the pictures.
    """
    files: dict[Path, Any] = {}
    rejects = []
    images = [path for image in images for path in _pictures_of(image, out)]
    seen = {os.path.realpath(image) for image in images}
    for name, result in zip(_output_names(images), annotate(list(images), **how)):
        if isinstance(result, Reject):
            rejects.append(result)
            continue
        for path, value in ((out / file, value) for file, value in _files(name, result, pictures)):
            if path in files:
                raise UsageError(f"two of the pictures would become {path}; annotate them into different folders")
            if os.path.realpath(path) in seen:
                raise UsageError(f"{path} is one of the pictures, and is not replaced by its map; choose another --out")
            if path.exists() and not overwrite:
                raise UsageError(f"{path} exists; choose another --out or say --overwrite")
            files[path] = value
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, value in files.items():
            _write(path, value)
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}; choose another --out") from error
    return list(files), rejects


def _pictures_of(image: Path, out: Path) -> list[Path]:
    """The picture, or those of a folder; not what lies in `out`. Raises UsageError for a folder without any, or `out` itself."""
    if not image.is_dir():
        return [image]
    if out.is_dir() and image.samefile(out):
        raise UsageError(f"maps would lie among the pictures in {image}; choose another --out")
    found = [image / native(entry.name) for entry in FolderSource(image, exclude=out.absolute()).entries()]
    if not found:
        raise UsageError(f"{image} holds no pictures; name one, or a folder that does")
    return found


def _output_names(images: Sequence[Path]) -> list[str]:
    """The stems; the whole file name where two pictures share one."""
    stems = Counter(image.stem for image in images)
    return [image.stem if stems[image.stem] == 1 else image.name for image in images]


def _files(name: str, result: Annotated, pictures: bool) -> Iterator[tuple[str, Any]]:
    """What is written of one picture: file name -> PIL picture or JSON."""
    for column, image in result.maps.items():
        yield f"{name}.png" if len(result.maps) == 1 else f"{name}.{column}.png", image
    if pictures:
        yield f"{name}.image.png", result.image
    for column, value in result.columns.items():
        if column.startswith("keypoints"):
            yield f"{name}{column.removeprefix('keypoints').replace('_', '.', 1)}.json", value


def _write(path: Path, value: Any) -> None:
    if isinstance(value, Image.Image):
        commit_picture(path, value, "PNG")
    else:
        commit_json(path, value)
