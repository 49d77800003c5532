"""The run's folder: whose it is, and one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from condprep.runtime.folder import check_own, lies_in
from condprep.runtime.own import remove
from trainer.errors import CheckpointError
from trainer.recipe.layout import LOCK, LOGS, RECIPE
from trainer.recipe.recipe import Recipe


def check_folder(folder: Path) -> None:
    """Raises CheckpointError for a folder of other things."""
    if folder.is_file():
        raise CheckpointError(f"save.dir {folder} is a file; choose another one")
    if folder.is_dir() and not {RECIPE, LOCK} & {path.name for path in folder.iterdir()} and any(folder.iterdir()):
        raise CheckpointError(f"save.dir {folder} is not empty and holds no run of the trainer; choose another one")


def check_outside(recipe: Recipe) -> None:
    """Raises CheckpointError for a folder in the dataset, which would take the run's tables and pictures for rows."""
    folder, dataset = Path(recipe.save.dir), recipe.data.path
    if lies_in(folder, Path(dataset)):
        raise CheckpointError(f"save.dir {folder} lies in the dataset {dataset}; choose one beside it")


def check_free(folder: Path) -> None:
    """Raises what `own` would raise, and makes nothing."""
    check_folder(folder)
    if (folder / LOCK).exists():
        with own(folder):
            pass


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it. The operating system frees the lock however the process ends.

    Raises CheckpointError for a folder of other things, and for one in which a run is going on; UsageError for links in it.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_own(folder, {path.name for path in folder.iterdir()} - {LOGS}, shallow=[LOGS])  # trackers link their runs
    try:
        with FileLock(folder / LOCK, timeout=0):
            try:
                yield
            finally:
                _forget_if_empty(folder)
    except Timeout:
        raise CheckpointError(f"another run is using save.dir {folder}; wait for it or choose another one") from None


def _forget_if_empty(folder: Path) -> None:
    """Leave no folder behind where a mistake ended the run before it had begun."""
    if [path.name for path in folder.iterdir()] == [LOCK]:
        remove(folder / LOCK)
        folder.rmdir()
