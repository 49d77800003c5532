"""Where a run keeps what it has found and encoded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from trainer.data.old_caches import cache_name, make_room
from trainer.data.transform import way_of
from trainer.errors import MachineError, readable_bytes
from trainer.models.base import Base
from trainer.recipe.recipe import Recipe


def cache_folder(recipe: Recipe) -> Path:
    """`[cache] dir`, else beside the dataset: ds/ -> ds.cache; of a dataset on the Hub in the current folder."""
    if recipe.cache.dir:
        return Path(recipe.cache.dir)
    path = Path(os.path.abspath(recipe.data.path))
    return (
        path.with_name(f"{path.name}.cache") if path.exists() else Path(recipe.data.path.replace("/", "_") + ".cache")
    )


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Raises MachineError where the cache's folder may not be written."""
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(str(folder)):
            raise
        raise MachineError(
            f"{error.filename}: {error.strerror}; name another folder for the cache in cache.dir"
        ) from None


def keyed(parent: Path, kind: str, **depends: Any) -> Path:
    """The folder for what depends on all of that."""
    return parent / f"{kind}-{sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]}"


def latents_folder(
    recipe: Recipe, base: Base, form: str, kinds: Sequence[str | None], mirror: bool, keypoints: bool, **depends: Any
) -> Path:
    """Called by all that latents and conditions depend on. form: of its files, beside arrays of many rows; kinds: of conditions."""
    return keyed(
        cache_folder(recipe),
        cache_name("latents") + form,
        vae=base.fingerprints["vae"],
        precision=str(base.vae.dtype),
        dtype=recipe.cache.dtype,
        place=[recipe.data.resolution, recipe.data.fit, _one_or_all([*map(way_of, kinds)])],
        mirror=mirror and [_one_or_all(kinds), keypoints],
        **depends,
        **({"hints": True} if base.hints else {}),
    )


def _one_or_all(values: Sequence[Any]) -> Any:
    """Of one kind of conditions its own value."""
    return values[0] if len(values) == 1 else [*values]


def text_folder(recipe: Recipe, base: Base, form: str = "", **depends: Any) -> Path:
    """Called by all that embeddings depend on."""
    return keyed(
        cache_folder(recipe),
        cache_name("text") + form,
        encoders=base.fingerprints["text"],
        precision=str(base.text_encoders[0].dtype),
        dtype=recipe.cache.dtype,
        **depends,
    )


def check_free(folder: Path, lacking: int) -> None:
    """Raises MachineError where the disk has no room for so many bytes, also without the folders of other versions."""
    free = shutil.disk_usage(folder).free
    if lacking > free:
        free = make_room(folder, lacking)
    if lacking > free:
        raise MachineError(
            f"the cache in {folder} needs {readable_bytes(lacking)} more, and its disk has {readable_bytes(free)}: "
            "name a folder elsewhere with cache.dir, or say cache.latents = false"
        )
