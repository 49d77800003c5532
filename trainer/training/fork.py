"""A new run from the weights of another one: `python -m trainer fork OUTPUT`.

The new run's folder begins with a copy of those weights, so that it does not depend on what becomes of the other run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from condprep.errors import UsageError
from condprep.runtime.files import commit, commit_json, commit_text, read_json
from condprep.runtime.own import make_folder
from trainer.errors import ModelError
from trainer.inference.checkpoint_folder import result_folder
from trainer.inference.pipeline import WeightsName, read_records, weights_folder
from trainer.recipe.layout import CONDITION, CONFIG, EMA, RECIPE, START, WEIGHTS
from trainer.recipe.recipe import Recipe, by_key
from trainer.recipe.toml import dump_recipe, load_recipe
from trainer.training.folder import check_folder, own
from trainer.types import Say

ORIGIN = "fork.json"  # in START, written last: of which run, update and weights it is
OWN = ("save.dir", "model.init", "model.embedder", "model.blocks")  # keys that a fork has values of its own for
ANEW = {"save.resume": "auto", "save.push_to_hub": ""}  # keys that belong to the other run


@dataclass(frozen=True)
class Fork:
    """A run that is to begin with the weights of another one."""

    source: Path  # these weights, a folder of diffusers
    record: Path  # of the conditions that they were trained on, and in which order
    origin: dict[str, Any]
    recipe: Recipe  # of the new run
    before: Recipe  # of the other one

    @classmethod
    def of(
        cls,
        output: Path,
        settings: Iterable[str],
        out: Path | None = None,
        checkpoint: int | None = None,
        weights: WeightsName = "best",
    ) -> Fork:
        """out: the new run's folder, by default OUTPUT-fork. Raises ModelError where there are no such weights, RecipeError, UsageError."""
        if not (output / RECIPE).is_file():
            raise ModelError(f"{output} holds no run of the trainer: {RECIPE} is missing")
        given = list(settings)
        if any(setting.partition("=")[0].strip() in OWN for setting in given):
            raise UsageError("a fork has a folder of its own, named with --out, and begins with the weights of OUTPUT")
        where = Path(out or output.with_name(f"{output.resolve().name}-fork"))
        if where.resolve() == output.resolve():
            raise UsageError(f"--out {where} is the run itself; choose another folder")
        folder = result_folder(output, checkpoint)
        known, named = read_records(folder)[0], {setting.partition("=")[0].strip() for setting in given}
        own_values = (str(where), str(where / START), "usual", 0)
        own_keys = dict(zip(OWN, own_values)) | {key: value for key, value in ANEW.items() if key not in named}
        recipe = load_recipe(output / RECIPE, given)
        tables = recipe.model_dump(mode="json")
        for key, value in own_keys.items():
            table, _, name = key.partition(".")
            tables[table][name] = value
        which = ("averaged" if (folder / EMA).is_dir() else "last") if weights == "best" else weights
        origin = {"run": str(output), "checkpoint": checkpoint, "update": known["updates"], "weights": which}
        source = weights_folder(folder, weights)
        return cls(source, folder / CONDITION, origin, Recipe.model_validate(tables), load_recipe(output / RECIPE))

    @property
    def rehearsed(self) -> Recipe:
        """The recipe as it can be planned before anything is written: its weights lie where they are."""
        if (Path(self.recipe.save.dir) / START / ORIGIN).exists():
            return self.recipe
        return self.recipe.model_copy(update={"model": self.recipe.model.model_copy(update={"init": str(self.source)})})

    def begin(self) -> None:
        """The new run's folder, with its recipe and weights; what was begun before stays. Raises UsageError for another run's."""
        folder = Path(self.recipe.save.dir)
        check_folder(folder)
        start = folder / START
        if (folder / RECIPE).exists() and not self._is_begun(folder):
            raise UsageError(
                f"{folder} holds another run; choose another --out, or go on with it: python -m trainer {folder / RECIPE}"
            )
        if (start / ORIGIN).exists():
            return
        with own(folder):
            commit_text(folder / RECIPE, dump_recipe(self.recipe))
            make_folder(start)
            for path in (self.source / WEIGHTS, self.source / CONFIG, self.record):
                commit(start / path.name, partial(shutil.copyfile, path))
            commit_json(start / ORIGIN, self.origin)

    def _is_begun(self, folder: Path) -> bool:
        """Whether this very fork was begun there. The newest weights of a run that goes on are later ones by now."""
        begun = folder / START / ORIGIN
        origin = read_json(begun) if begun.exists() else self.origin
        same = all(origin.get(key) == self.origin[key] for key in ("run", "checkpoint", "weights"))
        return same and load_recipe(folder / RECIPE) == self.recipe

    def notes(self) -> list[str]:
        """What is taken over, and what is not."""
        ours, theirs = by_key(self.recipe.model_dump()), by_key(self.before.model_dump())
        changed = [f"{key} = {value!r}" for key, value in ours.items() if value != theirs[key]]
        of = self.origin
        return [
            f"a new run in {self.recipe.save.dir}: taken over are the {of['weights']} weights of update {of['update']:,} of {of['run']},"
            f" and its recipe but for {', '.join(changed)}",
            "not taken over: the optimizer's state, the count of updates (warm-up and schedule begin anew, and so do the order of"
            " rows and what is drawn: train.seed), the average, which begins with these weights",
        ]


def fork(
    output: str | Path,
    settings: Iterable[str] = (),
    *,
    out: str | Path | None = None,
    checkpoint: int | None = None,
    weights: WeightsName = "best",
    say: Say = lambda _: None,
) -> Recipe:
    """Begin a new run from the weights of the run in `output`; `train` goes on with the recipe that it returns.

    settings: "train.lr=1e-5", each replaces a key of the run's recipe. out: the new run's folder, by default OUTPUT-fork.
    checkpoint, weights: as `load_pipeline` takes them. say: is told what is taken over, and what is not. Raises ModelError where
    there are no such weights, RecipeError, and UsageError for the folder of another run.
    """
    made = Fork.of(Path(output), settings, None if out is None else Path(out), checkpoint, weights)
    made.begin()
    for note in made.notes():
        say(note)
    return made.recipe
