"""Checkpoints: complete or not there, proven whole before they are used, of this run or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.errors import CheckpointError
from trainer.recipe.recipe import Recipe
from trainer.training.checkpoint import Checkpoints, differences, refuse_another_base


def recipe(**tables: dict[str, Any]) -> dict[str, Any]:
    return Recipe.model_validate(tables).model_dump()


def save(
    checkpoints: Checkpoints, update: int, made_by: dict[str, Any] | None = None, dataset: str = "rows", **further: Any
) -> Path:
    folder = checkpoints.begin(update)
    (folder / "weights").write_bytes(bytes(range(100)))
    (folder / "sub").mkdir()
    (folder / "sub" / "more").write_text(str(update))
    known = {"recipe": made_by or recipe(), "dataset": dataset, "position": {"epoch": 1, "row": 12}}
    return checkpoints.commit(update, known | further)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_the_newest_is_taken_and_the_oldest_go(checkpoints: Checkpoints) -> None:
    """Of four, `keep` stay; auto goes on from the newest, with its position."""
    for update in (5, 10, 15, 20):
        save(checkpoints, update)
    assert [path.name for path in checkpoints] == ["00000015", "00000020"]
    chosen, notes = checkpoints.choose("auto", recipe(), "rows")
    assert chosen is not None
    assert (chosen.update, chosen.manifest["position"]) == (20, {"epoch": 1, "row": 12})
    assert notes == ["going on from update 20"]


def test_nothing_there_is_a_fresh_start(checkpoints: Checkpoints) -> None:
    """auto and never both start afresh in an empty folder."""
    assert checkpoints.choose("auto", recipe(), "rows") == (None, [])
    assert checkpoints.choose("never", recipe(), "rows") == (None, [])


def test_a_half_written_one_is_never_seen(checkpoints: Checkpoints) -> None:
    """A process that dies while writing leaves the one before as the newest; the next write clears its rest."""
    save(checkpoints, 5)
    (checkpoints.begin(10) / "weights").write_bytes(b"half")
    chosen, _ = checkpoints.choose("auto", recipe(), "rows")
    assert chosen is not None
    assert chosen.update == 5
    save(checkpoints, 15)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["00000005", "00000015"]


def test_choosing_removes_nothing(checkpoints: Checkpoints) -> None:
    """A dry run chooses beside a run that is going on: what that one writes stays, until a run that goes on tidies up."""
    save(checkpoints, 5)
    partial = checkpoints.begin(10)
    chosen, _ = checkpoints.choose("auto", recipe(), "rows")
    assert partial.exists()
    checkpoints.tidy(chosen)
    assert (partial.exists(), len([*checkpoints])) == (False, 1)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_newest_one_falls_back(checkpoints: Checkpoints, harm: str) -> None:
    """A flipped bit, a cut file, a missing file or manifest: the one before is taken, and the note says so."""
    save(checkpoints, 5)
    newest = save(checkpoints, 10)
    weights = newest / "weights"
    match harm:
        case "flip":
            weights.write_bytes(bytes([1, *range(1, 100)]))
        case "cut":
            weights.write_bytes(bytes(50))
        case "remove":
            (newest / "sub" / "more").unlink()
        case "manifest":
            (newest / "manifest.json").write_text("{")
    chosen, notes = checkpoints.choose("auto", recipe(), "rows")
    assert chosen is not None
    assert chosen.update == 5
    assert "00000010 is damaged" in notes[0]


def test_all_damaged_is_an_error_not_a_fresh_start(checkpoints: Checkpoints) -> None:
    """Where no checkpoint is whole, nothing starts afresh silently."""
    (save(checkpoints, 5) / "weights").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint .* is whole"):
        checkpoints.choose("auto", recipe(), "rows")


def test_a_damaged_one_that_was_named_is_refused(checkpoints: Checkpoints) -> None:
    """--resume PATH takes that one or none."""
    path = save(checkpoints, 5)
    assert checkpoints.choose(str(path), recipe(), "rows")[0] is not None
    (path / "weights").write_bytes(b"")
    with pytest.raises(CheckpointError, match="weights has 0 bytes, not 100"):
        checkpoints.choose(str(path), recipe(), "rows")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        checkpoints.choose(str(path.parent), recipe(), "rows")


@pytest.mark.parametrize("keep", [1, 3])
def test_what_is_gone_back_behind_does_not_come_back(tmp_path: Path, keep: int) -> None:
    """A run that goes on from an earlier checkpoint that was named says which later ones there are. With its own first one they go, and
    it is its own that stays, however few do, and from which it goes on."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for update in (5, 10, 15):
        save(checkpoints, update)
    checkpoints = Checkpoints(checkpoints.folder, keep)
    chosen, notes = checkpoints.choose(str(checkpoints.folder / "00000005"), recipe(), "rows")
    assert "of later updates (10, 15) go as soon as" in notes[1]
    checkpoints.tidy(chosen)
    save(checkpoints, 7)
    assert [path.name for path in checkpoints] == ["00000005", "00000007"][-keep:]
    chosen, notes = checkpoints.choose("auto", recipe(), "rows")
    assert chosen is not None
    assert (chosen.update, len(notes)) == (7, 1)


def test_never_refuses_a_folder_with_a_run(checkpoints: Checkpoints) -> None:
    """`never` does not write over another run's checkpoints."""
    save(checkpoints, 5)
    with pytest.raises(CheckpointError, match="holds a run of 5 updates"):
        checkpoints.choose("never", recipe(), "rows")


def test_another_recipe_is_refused_with_the_difference(checkpoints: Checkpoints) -> None:
    """The key, what it was and what it is."""
    save(checkpoints, 5, recipe(train={"lr": 1e-5}))
    with pytest.raises(CheckpointError, match=r"train\.lr was 1e-05, is 2e-06"):
        checkpoints.choose("auto", recipe(train={"lr": 2e-6}), "rows")


def test_another_dataset_is_refused(checkpoints: Checkpoints) -> None:
    """Other rows under the same path."""
    save(checkpoints, 5)
    with pytest.raises(CheckpointError, match="the dataset's rows"):
        checkpoints.choose("auto", recipe(), "other rows")


@pytest.mark.parametrize(
    ("part", "said"),
    [("unet", "UNet"), ("transformer", "transformer"), ("text", "text enc"), ("schedule", "schedule of")],
)
def test_another_base_under_the_same_name_is_refused(checkpoints: Checkpoints, part: str, said: str) -> None:
    """Of every part that a base may have: weights of a UNet as of a transformer, and what it says that it has learned."""
    save(checkpoints, 5, base={"vae": "v", part: "before"})
    chosen, _ = checkpoints.choose("auto", recipe(), "rows")
    assert chosen is not None
    refuse_another_base(chosen, {"vae": "v", part: "before"})
    with pytest.raises(CheckpointError, match=f"a base with another {said}.*before, now after"):
        refuse_another_base(chosen, {"vae": "v", part: "after"})


def test_what_does_not_change_the_result_may_differ() -> None:
    """How a run is carried out is free: memory, logs, folders; betas survive the way through JSON."""
    before = recipe()
    now = recipe(
        train={"micro_batch": 8, "gradient_checkpointing": True},
        eval={"every": 7},
        save={"keep": 9},
        log={"every": 3},
        data={"num_workers": 1},
    )
    before["train"]["betas"] = list(before["train"]["betas"])
    assert differences(before, now) == []


def test_a_run_may_be_prolonged_where_its_rate_does_not_depend_on_it() -> None:
    """More steps are fine with a constant rate, and another run with a cosine."""
    for schedule, expected in (("constant_with_warmup", []), ("cosine", ["train.steps was 10, is 20"])):
        before, now = (recipe(train={"steps": steps, "schedule": schedule}) for steps in (10, 20))
        assert differences(before, now) == expected
