"""Fidelity while training: it rises when a ControlNet learns, ends runs that do not get better, and survives resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import ControlNetModel
from support.trainer_models import build_dataset
from support.trainer_runs import equal, lines, make_place, make_recipe, weights

from trainer.errors import DataError, RecipeError
from trainer.evaluation.monitor import FidelityMonitor, best_so_far, fidelity_remark, is_settled, unknown_remark
from trainer.inference.pipeline import load_pipeline
from trainer.recipe.toml import parse_recipe
from trainer.training.train import train

FOLLOWED = {
    "every": 2,
    "samples": 0,
    "loss_rows": 0,
    "fidelity": True,
    "fidelity_rows": 3,
    "sampler_steps": 2,
    "cfg": 1.0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("watched"), rows=48)


def scripted(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The validations find these, one after the other."""
    waiting = iter(values)
    monkeypatch.setattr(FidelityMonitor, "measure", lambda *_: {"fidelity": next(waiting), "fidelity_chance": 0.1})


@pytest.mark.slow
def test_every_validation_measures_fidelity(place: Path, tmp_path: Path) -> None:
    """Curves in metrics.jsonl from update 0 on, the newest in the result, and the same run without measuring."""
    watched = train(make_recipe(place, tmp_path / "a", train={"steps": 4}, eval=FOLLOWED))
    found = [line for line in lines(tmp_path / "a") if "fidelity_f1_2px" in line]
    assert [line["update"] for line in found] == [0, 2, 4]
    assert all(0 <= line["fidelity_chance"] <= 1 and 0 <= line["fidelity_ceiling"] <= 1 for line in found)
    assert watched.metrics["fidelity_f1_2px"] == found[-1]["fidelity_f1_2px"]
    train(make_recipe(place, tmp_path / "b", train={"steps": 4}))
    assert equal(*(weights(tmp_path / run / "raw") for run in "ab"))


@pytest.mark.slow
def test_a_run_ends_when_fidelity_no_longer_rises(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two validations without better fidelity end it, with a result; the weights that followed best are kept."""
    scripted(monkeypatch, 0.0, 0.6, 0.5, 0.6)
    said: list[str] = []
    settings = FOLLOWED | {"stop_when": 2}
    result = train(make_recipe(place, tmp_path / "out", train={"steps": 40}, eval=settings), say=said.append)
    assert result.finished
    assert result.updates == 6
    assert result.metrics["best_update"] == 2
    assert any("sudden convergence at update 2" in line for line in said)
    assert any("this is the end" in line for line in said)
    best, last = (weights(tmp_path / "out" / part) for part in ("faithful", "ema"))
    assert not equal(best, last)
    pipe: Any = load_pipeline(tmp_path / "out", weights="faithful")
    assert isinstance(pipe.controlnet, ControlNetModel)
    assert pipe.controlnet.state_dict()["conv_in.weight"].equal(best["conv_in.weight"])


@pytest.mark.slow
def test_patience_outlives_a_resume(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on remembers what was best, and when."""
    scripted(monkeypatch, 0.0, 0.6, 0.5)
    recipe = {"eval": FOLLOWED | {"stop_when": 2}, "save": {"every": 2}}
    train(make_recipe(place, tmp_path / "out", train={"steps": 4}, **recipe))
    scripted(monkeypatch, 0.4)
    resumed = train(make_recipe(place, tmp_path / "out", train={"steps": 40}, **recipe))
    assert resumed.updates == 6
    assert resumed.metrics["best_fidelity"] == 0.6


def test_what_is_best_is_remembered() -> None:
    """Only a better value replaces the best one; patience counts validations, and 0 is endless."""
    metrics = best_so_far({"fidelity": 0.4}, {}, 100)
    assert metrics == {"best_fidelity": 0.4, "best_update": 100}
    assert best_so_far({"fidelity": 0.4}, metrics, 200) == best_so_far({"fidelity_chance": 1}, metrics, 200) == {}
    assert best_so_far({"fidelity": 0.5}, metrics, 200) == {"best_fidelity": 0.5, "best_update": 200}
    assert not is_settled(metrics, 300, 3, 100)
    assert is_settled(metrics, 400, 3, 100)
    assert not is_settled(metrics, 4000, 0, 100)
    assert not is_settled({}, 400, 3, 100)


def test_convergence_is_noted_once() -> None:
    """When half of the way is reached for the first time; sudden where the validation before was far below."""
    assert "sudden convergence at update 3,200" in fidelity_remark({"fidelity": 0.05, "best_fidelity": 0.08}, 0.6, 3200)
    slow = fidelity_remark({"fidelity": 0.45, "best_fidelity": 0.45}, 0.55, 3200)
    assert "convergence at update 3,200" in slow
    assert "sudden" not in slow
    assert "convergence" not in fidelity_remark({"fidelity": 0.2, "best_fidelity": 0.6}, 0.7, 3200)
    assert "convergence" not in fidelity_remark({}, 0.3, 100)


def test_why_nothing_can_be_told_is_said_with_its_numbers() -> None:
    """Where another row's map fits as well as the best that can be reached, that is said, not that maps do not belong."""
    found = {"fidelity_real": 0.97, "fidelity_ceiling": 0.549, "fidelity_chance": 0.564}
    said = unknown_remark(found, 1200)
    assert "update 1,200: whether pictures follow their condition cannot be told: by their own maps" in said
    assert "score 0.97, and 0.55 after the VAE, by another row's the generated ones 0.56" in said
    assert "of no kind do the real pictures" in unknown_remark({"fidelity_real_canny": 0.1}, 1)


def test_fidelity_needs_what_it_is_measured_by(place: Path, tmp_path: Path) -> None:
    """Patience without fidelity is refused as a recipe; maps of unknown origin before the first update."""
    with pytest.raises(RecipeError, match=r"say eval\.fidelity = true"):
        parse_recipe({"eval": {"stop_when": 3}})
    build_dataset(tmp_path / "ds", rows=24)
    (tmp_path / "ds" / ".condprep" / "provenance.json").unlink()
    with pytest.raises(DataError, match="does not say which annotator"):
        train(make_recipe(place, tmp_path / "out", data={"path": str(tmp_path / "ds")}, eval=FOLLOWED))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
