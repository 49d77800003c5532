"""`python -m trainer evaluate`: a ControlNet tried on rows that it has not seen, and on all that it is held against."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.held_out import refuse_second_share
from trainer.data.open import open_split
from trainer.data.rows import splits
from trainer.data.split import Split
from trainer.errors import DataError, ModelError
from trainer.evaluation.examples import Example, read_examples, remade
from trainer.evaluation.networks import at_hand
from trainer.evaluation.protocols import AnnotatorChoice, EvaluationProtocol, protocol
from trainer.evaluation.reannotator import Reannotator, reannotator
from trainer.evaluation.result import CHANCE, Fidelity, Trained, conclude
from trainer.evaluation.trial import Arm, Trial
from trainer.inference.checkpoint_folder import result_folder
from trainer.inference.generate import Sampling
from trainer.inference.pipeline import PrecisionName, WeightsName, load_pipeline, read_records
from trainer.models.kinds import all_kinds, kinds_of, recorded_kinds
from trainer.recipe.layout import METRICS, RECIPE
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import load_recipe
from trainer.types import Say, ShowProgress

if TYPE_CHECKING:
    from condprep.weights.find import Weights


def evaluate(
    output: str | Path,
    dataset: str | Path | None = None,
    *,
    split: str | None = None,
    rows: int = 100,
    seed: int = 0,
    sampler: str | None = None,
    sampler_steps: int | None = None,
    cfg: float | None = None,
    pictures_per_prompt: int | None = None,
    against: str | Path | None = None,
    protocol_name: str | None = None,
    annotator: str | None = None,
    annotator_weights: Weights | None = None,
    kind: str | None = None,
    clip: str | Path | None = None,
    inception: str | Path | None = None,
    batch: int = 8,
    base: str | None = None,
    checkpoint: int | None = None,
    weights: WeightsName = "best",
    precision: PrecisionName = "auto",
    device: str = "auto",
    say: Say = lambda _: None,
    progress: ShowProgress = lambda *_: None,
) -> Fidelity:
    """How well the ControlNet in `output` follows conditions that it has not seen, beside what it is to be held against.

    dataset: None is that of the training; split: its held-out rows. rows: at most that many of each kind, evenly
    chosen. Sampler, steps, guidance and one picture a prompt are the recipe's where neither they nor a protocol are given.
    checkpoint, weights: as `load_pipeline` takes them. against: a second ControlNet. annotator: looks at the pictures instead of the dataset's own. kind: which of several kinds of conditions is looked at. clip, inception: for
    CLIP score and KID; None is what is in the caches. Raises UsageError, ModelError, DataError, AnnotatorError,
    WeightsError.
    """
    began, named = time.perf_counter(), protocol(protocol_name) if protocol_name else None
    dataset, against, clip = (None if given is None else str(given) for given in (dataset, against, clip))
    folder = result_folder(Path(output), checkpoint, say)
    _check_against(folder, against)
    trained, recipe = Trained.of(folder, Path(output) / METRICS, kind), _recipe(Path(output), dataset, named)
    _check_dataset(recipe, dataset, split)
    sampling = _sampling(recipe, named, sampler_steps, cfg, pictures_per_prompt, seed, batch)
    drawn_by = sampler or ("auto" if named else recipe.eval.sampler)
    choice = _instead(annotator, named, trained.kind)
    of, kinds = split or recipe.data.validation, trained.kinds  # which a few held-out maps might not look like
    held = _told(open_split(recipe, of, training=False, progress=progress, kinds=kinds), trained)
    looks = _annotator(held.recipe, choice, device, annotator_weights)
    held_out = read_examples(held, rows)
    seen = _seen(recipe, split, trained, rows, progress)
    if choice and choice.remakes:
        held_out, seen = remade(held_out, looks), remade(seen, looks)
    pipe = load_pipeline(folder, base=base, weights=weights, precision=precision, sampler=drawn_by, device=device)
    networks = at_hand(clip, None if inception is None else Path(inception), str(pipe.device))
    total = sampling.pictures * ((3 + bool(against)) * len(held_out) + len(seen))
    trial = Trial(pipe, looks, looks.kind or trained.kind, sampling, _Counter(progress, total), networks)
    arms = make_arms(trial, held_out, seen, against)
    settings = {"protocol": protocol_name, **_settings(recipe, split), "against": against, "sampler": drawn_by}
    measure = named.measures.get(trial.kind or "") if named else None
    found = conclude(trial, arms, trained, settings | asdict(sampling), time.perf_counter() - began, measure)
    return replace(found, notes=[*found.notes, *_known(held, trained, of == recipe.data.split and dataset is None)])


def _known(held: Split, trained: Trained, named: bool) -> Iterator[str]:
    """That the rows which are looked at were trained on. named: they are of that very split."""
    if named or held.fingerprint == trained.dataset:
        yield "the rows that were looked at are those that were trained on: this is how well it remembers them"


def _instead(annotator: str | None, named: EvaluationProtocol | None, kind: str | None) -> AnnotatorChoice | None:
    """Who looks instead of the dataset's own annotator: the one that is asked for, else the protocol's for that kind."""
    if annotator:
        return AnnotatorChoice(annotator, {}, remakes=False)
    return named.annotators.get(kind or "") if named else None


def _annotator(recipe: Recipe, choice: AnnotatorChoice | None, device: str, weights: Weights | None) -> Reannotator:
    instead = (choice.annotator, choice.params) if choice else None
    return reannotator(recipe.data.path, recipe.data.condition_column, instead, device, weights)


def _settings(recipe: Recipe, split: str | None) -> dict[str, Any]:
    data = recipe.data
    held_out = f"{data.validation} of {data.split}" if data.share else data.validation
    return {"dataset": data.path, "split": split or held_out, "resolution": data.resolution}


def make_arms(
    trial: Trial, held_out: Sequence[Example], seen: Sequence[Example], against: str | None
) -> dict[str, Arm]:
    own, real = trial.generated("controlnet", held_out), trial.real(held_out)
    found = [
        own,
        *trial.other_maps(CHANCE, own),
        *trial.foreign(held_out),
        trial.generated("base", held_out, strength=0.0),
        *([trial.second(held_out, against)] if against else []),
        *([trial.generated("train rows", seen)] if seen else []),
        real,
        *trial.other_maps("real, other map", real),
        trial.vae(held_out),
    ]
    return {arm.name: arm for arm in found}


@dataclass
class _Counter:
    """Tells how many pictures are made."""

    progress: ShowProgress
    total: int
    made: int = 0

    def __call__(self, pictures: int) -> None:
        self.made += pictures
        self.progress("pictures", self.made, self.total)


def _recipe(output: Path, dataset: str | None, named: EvaluationProtocol | None) -> Recipe:
    """That of the training, with what is asked for. Raises ModelError where there is none."""
    if not (output / RECIPE).is_file():
        raise ModelError(f"{output} holds no result of the trainer: {RECIPE} is missing")
    recipe = load_recipe(output / RECIPE)
    asked: dict[str, Any] = {"path": dataset or recipe.data.path}
    asked |= {"resolution": named.resolution} if named else {}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=asked)})


def _sampling(
    recipe: Recipe,
    named: EvaluationProtocol | None,
    steps: int | None,
    cfg: float | None,
    pictures: int | None,
    seed: int,
    batch: int,
) -> Sampling:
    """What is asked for goes before the protocol, that before the recipe."""
    usual = (named.steps, named.cfg, named.pictures) if named else (recipe.eval.sampler_steps, recipe.eval.cfg, 1)
    chosen = [usual[n] if given is None else given for n, given in enumerate((steps, cfg, pictures))]
    negative = named.negative_prompt if named else ""
    return Sampling(int(chosen[0]), float(chosen[1]), int(chosen[2]), seed, batch, negative)


def _check_dataset(recipe: Recipe, asked: str | None, split: str | None) -> None:
    """Before anything else is asked of it: a dataset that is not there names no annotator. Raises DataError."""
    try:
        known = splits(recipe.data, recipe.text)
    except DataError as error:
        blamed = str(error).replace("data.path = ", "--dataset ", 1)
        raise DataError(blamed if asked else f"{error}; --dataset names another") from None
    if not split:
        refuse_second_share(recipe.data, known)


def _check_against(folder: Path, against: str | None) -> None:
    """Raises ModelError for a second ControlNet to which the numbers of kinds mean others."""
    own, other = kinds_of(read_records(folder)[1]), against and recorded_kinds(against)
    if len(own) > 1 and other and other != own:
        raise ModelError(
            f"--against {against} was made for {all_kinds(other)}, and {folder} for {all_kinds(own)}: it must have the same"
            " kinds in the same order"
        )


def _seen(recipe: Recipe, split: str | None, trained: Trained, most: int, progress: ShowProgress) -> list[Example]:
    """Rows that were trained on; none where the dataset's are not those, or they are the held-out ones."""
    data = recipe.data
    if data.split == (split or data.validation) or data.split not in splits(data, recipe.text):
        return []
    train = open_split(recipe, data.split, training=False, most=data.max_rows, progress=progress, kinds=trained.kinds)
    return read_examples(_told(train, trained), most) if train.fingerprint == trained.dataset else []


def _told(split: Split, trained: Trained) -> Split:
    """With the conditions of the kind that is looked at. Raises DataError where the dataset says that it has others."""
    if found := next((one for one in split.each if one.told == trained.told), None):
        return found
    raise DataError(
        f"data.conditions: {split.recipe.data.path} has maps of {all_kinds(split.rows.kinds)}, and the ControlNet was trained on "
        f"{all_kinds(trained.kinds)}: name a dataset whose columns are of these kinds with --dataset"
    )
