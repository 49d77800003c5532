"""Checkpoints: folders that are either complete and proven to be so, or not there.

output/checkpoints/00000500/    what `LearnerState.write` writes, and manifest.json: size and sha256 of every file,
                                the recipe, the dataset's fingerprint, the position in the data
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from condprep.runtime.files import commit_json, fsync
from condprep.runtime.own import held, make_folder, move, remove_tree
from trainer.errors import CheckpointError, TrainingStopped, first_line
from trainer.inference.checkpoint_folder import (
    DIGITS,
    MANIFEST,
    Checkpoint,
    checkpoint_folders,
    file_sha256,
    open_checkpoint,
)
from trainer.recipe.recipe import by_key

# What may differ between a checkpoint and the run that continues it: it changes how a run is carried out, not its result.
MAY_DIFFER = {
    *("data.path", "data.num_workers", "cache.latents", "cache.text", "cache.dir", "cache.check", "cache.limit"),
    *("train.micro_batch", "train.device", "ema.device", "train.gradient_checkpointing", "train.compile"),
    *("train.shard", "eval", "log", "save", "model.safetensors"),
}
HELD_OUT = ("data.validation", "data.validation_by")  # may, too, but for a share, which takes rows from the training
LENGTHS = {"train.steps", "train.epochs"}  # may, too, where the learning rate does not depend on them
# of a base, by the names of its fingerprints
PARTS = {
    "unet": "UNet",
    "transformer": "transformer",
    "vae": "VAE",
    "text": "text encoder",
    "schedule": "schedule of noise, or prediction type",
}
ENDLESS = ("constant", "constant_with_warmup")


class Checkpoints:
    """The checkpoints of one run, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def __iter__(self) -> Iterator[Path]:
        """Oldest first."""
        return iter(checkpoint_folders(self.folder))

    def save(self, update: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Write one. write: into a folder; state: the rest of the manifest.

        Raises TrainingStopped where it cannot be written; the ones before stay.
        """
        try:
            with held(self.begin(update)) as folder:
                write(folder)
            self.commit(update, state)
        except (OSError, RuntimeError, SafetensorError) as error:  # what a full disk is to torch and to safetensors
            self.abandon()
            raise TrainingStopped(
                f"the checkpoint of update {update:,} could not be written: {first_line(error)}. Make room;"
                " the checkpoints before it are whole, and the same command goes on from the newest"
            ) from error

    def begin(self, update: int) -> Path:
        """An empty folder to write the checkpoint into. What an interrupted one has left is removed."""
        make_folder(self.folder)
        self.abandon()
        partial = self.partial(update)
        make_folder(partial)
        return partial

    def partial(self, update: int) -> Path:
        return self.folder / f"{update:0{DIGITS}d}.partial"

    def abandon(self) -> None:
        """Remove what never became a checkpoint, or is none any more."""
        for left in self.folder.glob("*.partial"):
            remove_tree(left)

    def commit(self, update: int, state: Mapping[str, Any]) -> Path:
        """Give the folder its final name, once all of it is on disk; then remove the oldest beyond `keep`.

        Before them those of later updates, of a run that has gone on from an earlier one: it would go on from them next time.
        """
        partial = self.partial(update)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        listed = {str(path.relative_to(partial)): [path.stat().st_size, file_sha256(path)] for path in files}
        for path in files:
            fsync(path)
        commit_json(partial / MANIFEST, {"update": update, **state, "files": listed})
        final = partial.with_suffix("")
        if final.exists():  # of a run that fell back to an earlier one
            _remove(final)
        move(partial, final)
        fsync(self.folder)
        for later in self.behind(update):
            _remove(later)
        self._remove_oldest([*self])
        return final

    def behind(self, update: int) -> list[Path]:
        """Those of later updates."""
        return [one for one in self if int(one.name) > update]

    def _remove_oldest(self, paths: Sequence[Path]) -> None:
        """Those beyond `keep`."""
        for old in paths[: -self.keep]:
            _remove(old)

    def tidy(self, chosen: Checkpoint | None) -> None:
        """Remove what a killed run has left. chosen: from which the run goes on."""
        self.abandon()
        if chosen:
            self._remove_oldest([one for one in self if one <= chosen.path])

    def choose(self, resume: str, recipe: Mapping[str, Any], dataset: str) -> tuple[Checkpoint | None, list[str]]:
        """The checkpoint to go on from, None to start afresh, and what the user should know.

        resume: "auto", "never" or a checkpoint's folder. recipe: resolved; dataset: its fingerprint. Raises
        CheckpointError for one that is damaged or of another run, and for "never" where there is a run already.
        """
        if resume == "never":
            self._refuse_any()
            return None, []
        if resume != "auto":
            chosen = open_checkpoint(Path(resume))
            if damage := chosen.damage():
                raise CheckpointError(f"checkpoint {resume} is damaged: {damage}; take another, or say --resume auto")
            refuse_another(chosen, recipe, dataset)
            return chosen, [f"going on from update {chosen.update:,} ({resume})", *self._superseded(chosen.update)]
        return self._newest(recipe, dataset)

    def _superseded(self, update: int) -> list[str]:
        """What becomes of the checkpoints behind the one from which the run goes on."""
        later = ", ".join(f"{int(path.name):,}" for path in self.behind(update))
        what = f"the checkpoints in {self.folder} of later updates ({later}) go as soon as this run writes one"
        return [f"{what}: copy first what is to stay"] if later else []

    def _refuse_any(self) -> None:
        if found := [*self]:
            raise CheckpointError(
                f'{self.folder} holds a run of {int(found[-1].name):,} updates and save.resume is "never"; choose another'
                " save.dir, remove the folder yourself, or say --resume auto"
            )

    def _newest(self, recipe: Mapping[str, Any], dataset: str) -> tuple[Checkpoint | None, list[str]]:
        notes: list[str] = []
        for path in reversed([*self]):
            try:
                found = open_checkpoint(path)
                damage = found.damage()
            except CheckpointError as error:
                damage = str(error)
            if not damage:
                refuse_another(found, recipe, dataset)
                return found, [*notes, f"going on from update {found.update:,}"]
            notes.append(f"checkpoint {path} is damaged ({damage}): falling back to the one before")
        if notes:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole; choose another save.dir to start afresh")
        return None, []


def refuse_another(checkpoint: Checkpoint, recipe: Mapping[str, Any], dataset: str) -> None:
    """Raises CheckpointError, with the difference, for a checkpoint of another recipe or dataset."""
    found = differences(checkpoint.manifest["recipe"], recipe)
    if checkpoint.manifest["dataset"] != dataset:
        found.append(f"the dataset's rows (fingerprint {checkpoint.manifest['dataset'][:12]}, now {dataset[:12]})")
    if found:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is of another run: {'; '.join(found)}. Choose another save.dir, or undo this"
        )


def refuse_another_base(checkpoint: Checkpoint, fingerprints: Mapping[str, str]) -> None:
    """Raises CheckpointError for a checkpoint whose base had other weights, or learned otherwise, which the recipe need not show."""
    before = checkpoint.manifest.get("base", {})  # of an older version: it is not known
    for part, name in PARTS.items():
        if part in before and before[part] != (now := fingerprints.get(part, "none")):
            raise CheckpointError(
                f"checkpoint {checkpoint.path} was trained on a base with another {name} (fingerprint {before[part][:12]},"
                f" now {now[:12]}): model.base was changed, or a newer one was downloaded. Choose another"
                " save.dir, or undo this: name the earlier commit in model.revision"
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "train.lr was 1e-05, is 2e-06" for every key that matters to the result and that both recipes have."""
    may = MAY_DIFFER | LENGTHS if before["train"]["schedule"] in ENDLESS else MAY_DIFFER
    old, new = (by_key(json.loads(json.dumps(recipe))) for recipe in (before, now))  # as a manifest gives them back
    return [
        f"{key} was {old[key]!r}, is {value!r}"
        for key, value in new.items()
        if key in old
        and old[key] != value
        and not {key, key.partition(".")[0]} & may
        and not _is_elsewhere(key, old, new)
    ]


def _is_elsewhere(key: str, *recipes: Mapping[str, Any]) -> bool:
    """Whether a key says which held-out rows are looked at, and these are not of the split that is trained on."""
    return key in HELD_OUT and all(isinstance(recipe["data.validation"], str) for recipe in recipes)


def _remove(path: Path) -> None:
    """Its name goes first, so that no half of a checkpoint can be taken for one."""
    doomed = path.with_suffix(".partial")
    move(path, doomed)
    remove_tree(doomed)
