"""ControlNets that follow, ignore, memorise or blur are told apart by their pictures alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.painters import FALLING, HOW, NOTHING, STILL, Painter, follower, named, read_some, tried
from support.trainer_models import build_dataset

from condprep.annotators.registry import load_annotator
from condprep.runtime.files import commit_json
from trainer.evaluation.evaluate import _known
from trainer.evaluation.examples import Example
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.result import Fidelity, Trained, conclude
from trainer.evaluation.trial import Trial


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("findings")
    build_dataset(folder / "ds", rows=48)
    return read_some(folder)


def test_a_controlnet_that_follows(rows: list[Example]) -> None:
    """One that paints what the condition shows reaches the ceiling, also with foreign captions, and is found well."""
    found = tried(follower(rows), rows)
    mean = {arm: scores["f1_2px"].mean for arm, scores in found.scores.items()}
    assert mean["controlnet"] == mean["real"] == mean["vae"] == mean["foreign caption"] == 1
    assert mean["other map"] == pytest.approx(mean["foreign condition"], abs=0.1)
    assert mean["other map"] < 0.6
    assert mean["base"] == 0
    assert found.follows == 1
    assert found.difference.low > 0
    assert named(found) == ["follows"]


def test_a_controlnet_that_ignores_its_condition(rows: list[Example]) -> None:
    """One that paints the same picture whatever the condition is found out, though its pictures are sharp."""
    found = tried(Painter(lambda *_: Image.fromarray(rows[0].original)), rows[1:])
    assert named(found) == ["ignoring"]


def test_a_controlnet_that_memorises(rows: list[Example]) -> None:
    """One that paints what it was trained on, and nothing for half of the other conditions, is found out."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows[:8]}
    pipe = Painter(lambda condition, _: known.get(condition.tobytes(), Image.new("RGB", condition.size)))
    found = tried(pipe, rows[4:], rows[:4])
    assert found.scores["train rows"]["f1_2px"].mean == 1
    assert 0.1 < found.follows < 0.75
    assert "memorising" in named(found)


def test_a_controlnet_that_reads_captions_alone(rows: list[Example]) -> None:
    """One that paints what the caption says follows with its own captions and not with foreign ones: it is named."""
    told = [replace(row, prompt=f"picture {number}") for number, row in enumerate(rows)]
    known = {row.prompt: Image.fromarray(row.original) for row in told}
    found = tried(Painter(lambda _, prompt: known[prompt]), told)
    assert found.scores["controlnet"]["f1_2px"].mean == found.scores["foreign condition"]["f1_2px"].mean == 1
    assert found.scores["foreign caption"]["f1_2px"].mean < 0.6
    assert named(found) == ["leans on captions"]


def test_conditions_of_another_kind_are_named(rows: list[Example]) -> None:
    """A ControlNet that was trained on depth and is tried on edges is found out, whatever its pictures are."""
    blank = Painter(lambda condition, _: Image.new("RGB", condition.size))
    assert named(tried(blank, rows, trained=Trained("depth", "", None, ()))) == ["wrong kind", "ignoring"]


def test_a_loss_that_stands_still_is_a_plateau(rows: list[Example]) -> None:
    """Pictures that follow for half of the rows, and a held-out loss that no longer falls: a plateau, else patience."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows[::2]}
    half = Painter(lambda condition, _: known.get(condition.tobytes(), Image.new("RGB", condition.size)))
    still, falling = (tried(half, rows, trained=Trained("canny", "", 1.5, losses)) for losses in (STILL, FALLING))
    assert "plateau" in named(still)
    assert "follows in part" in named(falling)


def test_blurry_pictures_are_called_blurry(rows: list[Example]) -> None:
    """The right picture behind a Gaussian of 3 px follows less, and is called blurry."""
    sharp = follower(rows)
    found = tried(Painter(lambda c, p: sharp.paint(c, p).filter(ImageFilter.GaussianBlur(3))), rows)
    assert "blurry" in named(found)


@pytest.mark.parametrize("harm", ["shift", "shuffle"])
def test_pairs_that_do_not_belong_together_are_named(rows: list[Example], harm: str) -> None:
    """Maps shifted by 8 px, or exchanged, are found by the real pictures' own score, whatever the ControlNet does."""
    if harm == "shift":
        wrong = [replace(row, condition=np.roll(row.condition, 8, (0, 1))) for row in rows]
    else:
        wrong = [replace(row, condition=rows[n - 3].condition) for n, row in enumerate(rows)]
    assert "maps do not belong" in named(tried(follower(wrong), wrong))


def test_the_second_controlnet_is_compared_row_by_row(rows: list[Example]) -> None:
    """How far ahead one is of the other is the mean of the rows' differences, and a note says who is better; pictures without any
    light, as values that are no numbers give them, are told."""
    trial = Trial(follower(rows), Reannotator(load_annotator("canny")), "canny", HOW)
    blank = replace(trial, pipe=Painter(lambda condition, _: Image.new("RGB", condition.size)))
    arms = [trial.generated("controlnet", rows), trial.real(rows), trial.vae(rows)]
    arms += trial.other_maps("other map", arms[0]) + trial.other_maps("real, other map", arms[1])

    def against(second: Trial) -> Fidelity:
        all_of_them = [*arms, second.generated("against", rows)]
        return conclude(trial, {arm.name: arm for arm in all_of_them}, NOTHING, {}, 0.0)

    ahead, same = against(blank), against(trial)
    assert ahead.ahead.mean == ahead.scores["controlnet"]["f1_2px"].mean - ahead.scores["against"]["f1_2px"].mean == 1
    assert any("second ControlNet: better" in note for note in ahead.notes)
    dark = "12 of 12 pictures of arm 'against' are black"
    assert ([dark in note for note in ahead.notes].count(True), any("black" in note for note in same.notes)) == (
        1,
        False,
    )
    assert (same.ahead.low, same.ahead.high) == (0, 0)
    assert any("neither better nor worse" in note for note in same.notes)
    assert conclude(trial, {arm.name: arm for arm in arms}, NOTHING, {}, 0.0).ahead.rows == 0


def test_a_checkpoint_knows_the_losses_up_to_its_own(tmp_path: Path) -> None:
    """A plateau that the run came to later is none of a checkpoint's, whose folder is looked at beside the whole run's metrics."""
    commit_json(tmp_path / "condition.json", {"kind": "canny"})
    commit_json(tmp_path / "training.json", {"metrics": {}, "dataset": "d", "updates": 20})
    lines = "".join(json.dumps({"update": n, "val_loss": 1 / n}) + "\n" for n in (10, 20, 30))
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert Trained.of(tmp_path, tmp_path / "metrics.jsonl").losses == [(10, 0.1), (20, 0.05)]


def test_rows_that_were_trained_on_are_called_so() -> None:
    """By their content, or as the very split of the training: a note says that following them is remembering."""
    held: Any = SimpleNamespace(fingerprint="rows")
    known = (("rows", False), ("fewer of them", True), ("others", False))
    notes = [[*_known(held, replace(NOTHING, dataset=trained), named)] for trained, named in known]
    assert [len(one) for one in notes] == [1, 1, 0]
