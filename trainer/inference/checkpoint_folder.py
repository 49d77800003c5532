"""A run's checkpoints as they lie on the disk: which there are, whether one is whole, and the ControlNet in it.

A checkpoint has the records of a result, and its weights in folders of diffusers: what can be done with a result can be done
with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condprep.runtime.files import read_json
from trainer.errors import CheckpointError, ModelError
from trainer.recipe.layout import CHECKPOINTS, TRAINING
from trainer.types import Say

MANIFEST = "manifest.json"
DIGITS = 8


@dataclass(frozen=True)
class Checkpoint:
    """One that is on disk. manifest: {"update", "position", "lines", "validated", "recipe", "dataset", "files", ...}."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def update(self) -> int:
        return int(self.manifest["update"])

    def damage(self) -> str | None:
        """What is wrong with its files; None where all are as they were written."""
        try:
            for name, (size, sha256) in self.manifest["files"].items():
                file = self.path / name
                if file.stat().st_size != size:
                    return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
                if file_sha256(file) != sha256:
                    return f"{name} has another sha256 than was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        return None


def result_folder(output: Path, checkpoint: int | None = None, say: Say = lambda _: None) -> Path:
    """Where the result of a run lies: in `output` where the run is finished, else in its newest whole checkpoint.

    checkpoint: that of this update instead. say: is told which one is taken. Raises ModelError where there is none.
    """
    known = {int(path.name): path for path in checkpoint_folders(output / CHECKPOINTS)}
    finished = (output / TRAINING).exists()
    if checkpoint is None and (finished or not known):
        newest = max(known, default=0)
        if finished and newest > _updates(output):
            say(f"{output} was finished before update {newest:,}, and has gone on: --checkpoint {newest} takes that")
        return output
    if checkpoint is not None and checkpoint not in known:
        there = f"there are {', '.join(map(str, known))}" if known else "there is none"
        raise ModelError(f"{output} has no checkpoint of update {checkpoint}; {there}")
    found = _whole([known[checkpoint]] if checkpoint is not None else [known[update] for update in sorted(known)][::-1])
    if checkpoint is None:
        say(f"{output} is not finished: this is its checkpoint of update {found.update:,}")
    return found.path


def _whole(paths: Sequence[Path]) -> Checkpoint:
    """The first that is as it was written. Raises ModelError that says what is wrong with the first where none is."""
    problems = []
    for path in paths:
        try:
            found = open_checkpoint(path)
            if not (problem := found.damage()):
                return found
            problems.append(f"{path} is damaged: {problem}")
        except CheckpointError as error:
            problems.append(str(error))
    raise ModelError(problems[0])


def _updates(output: Path) -> int:
    """Of the training of a result; as many as there can be where its record does not tell."""
    try:
        return int(read_json(output / TRAINING)["updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return int("9" * DIGITS)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob("[0-9]" * DIGITS) if path.is_dir())


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointError for a folder that is none."""
    try:
        manifest = read_json(path / MANIFEST)
        if {"update", "recipe", "dataset", "files", "position"} <= manifest.keys() and _is_sound(manifest):
            return Checkpoint(path, manifest)
        raise ValueError("keys are missing, or are no such things")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no checkpoint: its {MANIFEST} is missing or damaged ({error})") from error


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Whether its values are of the types that they have: it may be anybody's."""
    recipe, files = manifest["recipe"], manifest["files"]
    tables = isinstance(recipe, dict) and all(isinstance(table, dict) for table in recipe.values())
    listed = isinstance(files, dict) and all(
        isinstance(was, list) and len(was) == 2 and not Path(name).is_absolute() and ".." not in Path(name).parts
        for name, was in files.items()
    )
    return (
        tables
        and listed
        and isinstance(manifest["update"], int)
        and all(isinstance(manifest.get(name, 0), int) for name in ("lines", "validated"))
        and isinstance(manifest["dataset"], str)
        and isinstance(recipe.get("train", {}).get("schedule"), str)
    )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
