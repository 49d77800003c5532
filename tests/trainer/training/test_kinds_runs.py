"""Whole runs on several kinds of conditions: they go on exactly, measure each kind, and leave what can be used."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import ControlNetUnionModel
from PIL import Image
from support.kinds import COLUMNS, KINDS, build_kinds
from support.trainer_models import save_base
from support.trainer_runs import equal, lines, make_recipe, weights

import condprep
from condprep.annotation.pictures import Annotated
from trainer import load_pipeline, sample, train
from trainer.app.serve import open_page
from trainer.errors import ModelError
from trainer.evaluation.evaluate import evaluate
from trainer.recipe.recipe import Recipe
from trainer.training.plan import plan_training

VALIDATED = {"every": 4, "samples": 3, "sampler_steps": 1, "loss_rows": 3, "fidelity": True, "fidelity_rows": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    save_base(folder / "base", "sdxl")
    build_kinds(folder / "ds", rows=16)
    return folder


def recipe_of(place: Path, out: Path, steps: int, **tables: dict[str, Any]) -> Recipe:
    data = {"path": str(place / "ds"), "resolution": 64, "num_workers": 1, "conditions": COLUMNS}
    save = {"dir": str(out), "every": 2}
    return make_recipe(place, out, data=data, train={"steps": steps}, save=save, **tables)


def diagonal() -> Image.Image:
    """An edge."""
    return Image.fromarray(np.eye(64, dtype=np.uint8)[..., None].repeat(3, 2) * 255)


@pytest.fixture(scope="module")
def output(place: Path) -> Path:
    """Of four updates, with two validations."""
    return train(recipe_of(place, place / "output", 4, eval=VALIDATED)).path


def test_a_run_that_is_resumed_is_one_that_was_not(place: Path, output: Path, tmp_path: Path) -> None:
    """Two updates and two more, without validations, give the weights of four, bit for bit: each row is given the same kinds."""
    for steps in (2, 4):
        train(recipe_of(place, tmp_path / "out", steps))
    assert equal(weights(tmp_path / "out" / "raw"), weights(output / "raw"))


def test_each_kind_is_measured(output: Path) -> None:
    """Held-out loss, gap and fidelity of each kind at each validation; the whole is their mean."""
    gaps = [line for line in lines(output) if "condition_gap" in line]
    assert [line["update"] for line in gaps] == [0, 4]
    for line in gaps:
        assert line["val_loss"] == pytest.approx(np.mean([line[f"val_loss_{kind}"] for kind in KINDS]))
        assert all(line[f"condition_gap_{kind}"] > 0 for kind in KINDS)
    assert all(gaps[0][f"condition_gap_{kind}"] == 1 for kind in KINDS)
    assert len({gaps[-1][f"condition_gap_{kind}"] for kind in KINDS}) == 3
    followed = [line for line in lines(output) if "fidelity_f1_2px_canny" in line]
    assert [line["update"] for line in followed] == [0, 4]
    assert {"fidelity_ssim_softedge", "fidelity_ssim_tile", "fidelity_chance_tile"} <= followed[-1].keys()
    assert len(list((output / "samples").glob("*.png"))) == 2


def test_the_result_says_how_to_make_all_conditions(place: Path, output: Path, tmp_path: Path) -> None:
    """The record names each column with its kind and annotator; `annotate --like` makes all of them; the card says each one's number."""
    record = json.loads((output / "condition.json").read_text())
    assert record["kind"] is None
    assert [(one["column"], one["kind"]) for one in record["conditions"]] == list(zip(COLUMNS, KINDS))
    assert [one["column"] for one in record["annotators"]] == COLUMNS
    picture = next((place / "ds-pictures").glob("*.png"))
    (found,) = condprep.annotate([picture], like=output)
    assert isinstance(found, Annotated)
    assert list(found.maps) == COLUMNS
    card = (output / "README.md").read_text()
    assert "# ControlNet for canny, softedge, tile conditions" in card
    assert "| softedge | 2 |" in card
    ControlNetUnionModel.from_pretrained(output)


def test_the_pipeline_takes_one_kind_or_several(place: Path, output: Path) -> None:
    """With a number for each map; a map that looks like another kind than its number's is warned of."""
    pipe: Any = load_pipeline(output)
    pipe.set_progress_bar_config(disable=True)
    edges, picture = diagonal(), Image.open(next((place / "ds-pictures").glob("*.png")))
    how: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        both = pipe("a disc", control_image=[edges, picture], control_mode=[3, 6], **how).images
    assert both.shape == (1, 4, 8, 8)
    assert type(pipe).__name__ == "StableDiffusionXLControlNetUnionPipeline"
    with pytest.warns(UserWarning, match="the condition looks like canny, but this ControlNet was trained on tile"):
        pipe("a disc", control_image=[edges], control_mode=[6], **how)


@pytest.mark.filterwarnings("ignore:the condition looks like canny")
def test_a_sample_says_of_which_kind_its_condition_is(output: Path) -> None:
    """It is needed, and must be one of those that were trained on; other kinds give other pictures."""
    map_ = diagonal()
    pictures = [np.asarray(sample(output, map_, "a disc", steps=1, kind=kind)) for kind in ("canny", "tile")]
    assert not np.array_equal(*pictures)
    for kind, message in ((None, "say with --kind"), ("depth", "--kind depth: this ControlNet was trained on canny,")):
        with pytest.raises(ModelError, match=message):
            sample(output, map_, "a disc", steps=1, kind=kind)


def test_an_evaluation_is_of_one_kind(output: Path) -> None:
    """Of the one that is asked for, by its own annotator and its own column, on held-out rows and on those that were trained on."""
    found = evaluate(output, rows=2, sampler_steps=1, kind="softedge")
    assert (found.kind, found.annotator, found.measure) == ("softedge", "hed:tensor", "ssim")
    assert "train rows" in found.arms
    assert found.scores["real"]["ssim"].mean == pytest.approx(1, abs=1e-3)
    with pytest.raises(ModelError, match="trained on canny, softedge, tile: say with --kind which"):
        evaluate(output, rows=2)


def test_the_plan_names_all_kinds(place: Path, output: Path, tmp_path: Path) -> None:
    """Of a run that could begin; the page of a finished one is for one kind, and says so."""
    several = plan_training(recipe_of(place, tmp_path / "out", 4))
    assert (several.family, several.kind) == ("sdxl", "canny, softedge, tile")
    with pytest.raises(ModelError, match="conditions of several kinds"):
        open_page(output)
