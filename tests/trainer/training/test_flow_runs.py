"""Whole runs of the families with a transformer: from a dataset to pictures, and the same run again in other ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image, ImageDraw
from safetensors import safe_open
from support.flow_models import FLOWS, save_flow_base
from support.trainer_models import save_pictures
from support.trainer_runs import equal, lines, make_recipe, on_processes, run_task, weights
from support.warm import Warm

import condprep
import trainer
from trainer.errors import ModelError, RecipeError
from trainer.models.families import FAMILIES
from trainer.recipe.recipe import Recipe
from trainer.training.plan import plan_training
from trainer.training.train import train

UPDATES = 2


@pytest.fixture(scope="module", params=FLOWS)
def place(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of a family, and a dataset of two shapes, a quarter of it for validation."""
    folder = tmp_path_factory.mktemp(request.param)
    save_flow_base(folder / "base", request.param)
    for size in ((64, 128), (128, 64)):
        save_pictures(folder / "pictures", 8, size)
    how: dict[str, Any] = {"resolution": 64, "validation": 0.25, "captions": "list"}
    condprep.build(folder / "pictures", folder / "ds", "canny", fit="keep", **how)
    return folder


def short(place: Path, out: Path, **tables: dict[str, Any]) -> Recipe:
    """UPDATES updates of 4 rows, a checkpoint after half of them, validation at the beginning and at the end."""
    usual: dict[str, dict[str, Any]] = {
        "data": {"resolution": 96, "caption_dropout": 0.5},
        "cache": {"dtype": "fp32"},
        "train": {"steps": UPDATES, "schedule": "constant", "lr": 1e-2},
        "eval": {"every": UPDATES, "samples": 1, "cfg": 2.0, "loss_rows": 2},
        "log": {"every": 1},
        "save": {"every": UPDATES // 2},
    }
    names = usual.keys() | tables.keys()
    return make_recipe(place, out, **{name: usual.get(name, {}) | tables.get(name, {}) for name in names})


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "output"
    assert train(short(place, out)).updates == UPDATES
    return out


@pytest.mark.slow
def test_a_run_measures_in_bands_of_its_own(whole: Path) -> None:
    """The condition gap is exactly 1 at first, in each of four bands; a picture is drawn; the loss is finite."""
    found = lines(whole)
    first = next(line for line in found if "condition_gap" in line)
    assert [first[f"condition_gap_band{band}"] for band in range(4)] == [1.0] * 4
    assert all(line["loss"] < 100 for line in found if "loss" in line)
    assert sorted(path.name for path in (whole / "samples").iterdir()) == ["00000000.png", "00000002.png"]


@pytest.mark.slow
def test_half_a_run_and_another_half_are_a_run(place: Path, whole: Path, tmp_path: Path) -> None:
    """A resumed run has the weights of an undisturbed one that was validated, bit for bit; and latents, hints and text that
    are made on the way are those of the cache."""
    out, silent = tmp_path / "output", {"every": 0}
    train(short(place, out, train={"steps": UPDATES // 2}, eval=silent))
    train(short(place, out, eval=silent))
    assert equal(weights(out / "raw"), weights(whole / "raw"))
    bare = tmp_path / "bare"
    train(short(place, bare, cache={"latents": False, "text": False}, eval=silent))
    for name, weight in weights(bare / "raw").items():
        assert weight.sub(weights(whole / "raw")[name]).abs().max() < 1e-3, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the condition looks like blank:UserWarning")  # of few edges, as some drawings have
def test_the_result_is_a_controlnet_of_diffusers(place: Path, whole: Path, tmp_path: Path) -> None:
    """It loads with the family's own class, draws in its pipeline, is measured, and goes into one file."""
    family = json.loads((whole / "training.json").read_text())["family"]
    known = getattr(diffusers, FAMILIES[family].controlnet)
    controlnet, info = known.from_pretrained(whole, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert FAMILIES[family].controlnet in (whole / "README.md").read_text()
    pipeline: Any = trainer.load_pipeline(whole, device="cpu")
    assert type(pipeline.controlnet) is known
    pipeline.set_progress_bar_config(disable=True)
    outline = Image.new("RGB", (128, 64))
    ImageDraw.Draw(outline).rectangle((20, 10, 100, 50), outline="white")
    picture = trainer.sample(whole, outline, "a red disc", steps=2, device="cpu")
    assert picture.size == (128, 64)
    found = trainer.evaluate(whole, rows=2, sampler_steps=2, device="cpu")
    assert found.scores["real"]["f1_0px"].mean == 1
    path = trainer.export(whole, tmp_path / "one.safetensors", to="comfyui")
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(weights(whole))
    with pytest.raises(ModelError, match="AUTOMATIC1111's program cannot load"):
        trainer.export(whole, tmp_path / "two.safetensors", to="a1111")
    for key in (key for key in controlnet.config if not key.startswith("_")):
        assert controlnet.config[key] == pipeline.controlnet.config[key]


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["no", "full"])
@pytest.mark.parametrize("place", ["z-image"], indirect=True)
def test_two_processes_learn_what_one_learns(shard: str, place: Path, whole: Path, warm: Warm, tmp_path: Path) -> None:
    """Two CPUs (gloo), each with half of every update, of a ControlNet that borrows from its base, whose weights they share
    or have whole: the same losses, validated, too, and the same weights within rounding."""
    out = tmp_path / "output"
    code, said = on_processes(warm, tmp_path, 2, run_task(tmp_path, short(place, out, train={"shard": shard})))
    assert code == 0, said[-2000:]
    record = json.loads((out / "training.json").read_text())
    assert (record["processes"], record["sharded"]) == (2, shard == "full")
    validated = [[line["val_loss"] for line in lines(folder) if "val_loss" in line] for folder in (out, whole)]
    assert validated[0] == pytest.approx(validated[1], rel=1e-4)
    found, expected = ([line["loss"] for line in lines(folder) if "loss" in line] for folder in (out, whole))
    assert found == pytest.approx(expected, rel=1e-4)
    for name, weight in weights(out / "raw").items():
        assert weight.sub(weights(whole / "raw")[name]).abs().max() < 5e-4, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", [family for family in FLOWS if family != "z-image"], indirect=True
)  # its recipe's is held
def test_a_plan_predicts_and_refuses(place: Path, tmp_path: Path) -> None:
    """`--dry-run` predicts more memory than the base alone takes, in buckets of both shapes; settings of other objectives are refused by their names."""
    plan = plan_training(short(place, tmp_path / "output", cache={"dtype": "fp16"}))
    weights_alone = sum(file.stat().st_size for file in (place / "base" / "transformer").glob("*.safetensors"))
    assert plan.peak_bytes > weights_alone
    assert set(plan.buckets) == {(64, 128), (128, 64)}
    with pytest.raises(RecipeError, match=r"train\.snr_gamma = 5 is for bases that predict noise or velocity"):
        plan_training(short(place, tmp_path / "output", train={"snr_gamma": 5.0}))
