"""What a dry run says of a dataset whose records lack something: before the training, not after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.trainer_runs import make_place, make_recipe
from support.trainings import RECORDED

from condprep.runtime.files import read_json
from trainer.inference.export import card, condition_record
from trainer.training import plan

Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "no licence": (lambda made: made["annotators"][0].pop("licence"), "names no licence of canny"),
    "null parameters": (lambda made: made["annotators"][0].update(parameters=None, params=None), ""),
    "null weights": (lambda made: made["annotators"][0].update(weights=None, licence=7), ""),
    "no name": (lambda made: made["annotators"][0].update(annotator=None), "cannot be read"),
    "null annotators": (lambda made: made.update(annotators=None), "cannot be read"),
    "no geometry": (lambda made: made.pop("geometry"), "cannot be read"),
    "odd geometry": (lambda made: made.update(geometry=[1]), "cannot be read"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"), 8)


@pytest.fixture(autouse=True)
def one_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dry run finds out of the base, which takes long, it finds out once in a test."""
    for name in ("load_base", "predict_memory"):
        monkeypatch.setattr(plan, name, once(getattr(plan, name)))


def once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Its first answer, for ever."""
    answers: list[Any] = []
    return lambda *arguments: answers[0] if answers else answers.append(call(*arguments)) or answers[0]


def test_a_provenance_that_lacks_something_is_said_by_the_dry_run(place: Path, tmp_path: Path) -> None:
    """No licence, null parameters, no record at all: a note where the result will lack it; and what a dry run lets pass, the
    result's card can be written of."""
    path = place / "ds" / ".condprep" / "provenance.json"
    whole = path.read_text()
    recipe = make_recipe(place, tmp_path / "run", eval={"every": 0, "samples": 0, "loss_rows": 0})
    (tmp_path / "recipe.toml").write_text("")
    for name, (change, said) in CHANGES.items():
        recorded = read_json(path)
        change(recorded)
        path.write_text(json.dumps(recorded))
        notes = [note for note in plan.plan_training(recipe).notes if "provenance" in note]
        assert said in notes[0] if said else notes == [], (name, notes)
        assert "## Data" in card(tmp_path, RECORDED, condition_record(place / "ds", ["conditioning_image"], [None], 64))
        path.write_text(whole)
