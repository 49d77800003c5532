"""What a dry run says of a dataset whose records lack something: before the training, not after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from support.trainer_runs import make_place, make_recipe
from support.trainings import RECORDED

from condprep.runtime.files import read_json
from trainer.data.open import open_split
from trainer.inference.export import card, condition_record
from trainer.recipe.recipe import Text
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


def test_what_is_probably_not_meant_is_told(place: Path, tmp_path: Path) -> None:
    """Held-out rows that are those of the training, random crops of nothing, a ControlNet of another kind to begin with, rows without
    captions, captions that are cut, keys that rows share, and rows of another size; of rows as they should be nothing."""
    plain = make_recipe(place, tmp_path / "run", eval={"every": 5, "samples": 2})
    split = open_split(plain, "train", training=True)
    assert plan.doubts(plain, split) == []
    (tmp_path / "condition.json").write_text('{"kind": "depth"}')
    tables: dict[str, Any] = {"data": {"validation": "train", "crop": "random"}, "cache": {"latents": False}}
    tables["model"] = {"base": str(place / "base"), "init": str(tmp_path)}
    odd = make_recipe(place, tmp_path / "run", eval={"every": 5, "samples": 2}, **tables)
    found = plan.doubts(odd, split)
    for said in ("is the split that is trained on", "data.crop", "was trained on depth, and the conditions are canny"):
        assert [said in note for note in found].count(True) == 1, said
    for resolution, said in ((128, "enlarged 2 times"), (32, "shrunk 2 times")):
        transform = replace(split.transform, resolution=resolution, fit="crop")
        assert said in plan.doubts(plain, replace(split, transform=transform))[0]
    base: Any = SimpleNamespace(lengths_beyond=lambda captions: [100, 160][: len(captions)])
    (cut,) = plan.cut_captions(base, split.rows, Text())
    assert cut.endswith("up to 160 tokens, and cut: say text.max_tokens = 225")
    (cut,) = plan.cut_captions(base, split.rows, Text(max_tokens=750))
    assert cut.endswith("and cut")
    names, many = split.rows.names, len(split.rows)
    captions = [[""] if n % 2 else ["a disc"] for n in range(many)]
    table = pa.table({"key": ["a", "b"] * many, "text": [[one] for one in captions] * 2})
    rows = replace(split.rows, table=table, names=replace(names, key="key", captions=("text",), copied=True))
    found = plan.doubts(plain, replace(split, rows=replace(rows, numbers=range(many))))
    assert f"{many // 2} of {many} rows that were looked at have no caption" in found[0]
    assert f"{many} rows have 2 keys (column 'key')" in found[1]
