"""Whole runs on several kinds of conditions: they go on exactly, measure each kind, and leave what can be used."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import numpy as np
import pytest
from diffusers import ControlNetModel, ControlNetUnionModel, FluxControlNetModel, SD3ControlNetModel
from PIL import Image
from safetensors.torch import load_file
from starlette.testclient import TestClient
from support.flow_models import FLOWS, save_flow_base
from support.kinds import COLUMNS, KINDS, build_kinds
from support.learners import stir
from support.trainer_models import save_base
from support.trainer_runs import equal, lines, make_recipe, weights

import condprep
from condprep.annotation.pictures import Annotated
from trainer import export, load_pipeline, sample, train
from trainer.app.serve import open_page
from trainer.errors import ModelError
from trainer.evaluation.evaluate import evaluate
from trainer.recipe.recipe import Recipe
from trainer.training.plan import plan_training

pytestmark = pytest.mark.slow
VALIDATED = {"every": 4, "samples": 3, "sampler_steps": 1, "loss_rows": 3, "fidelity": True, "fidelity_rows": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    save_base(folder / "base")
    save_base(folder / "sdxl", "sdxl")
    for family in FLOWS:
        save_flow_base(folder / family, family)
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


@pytest.fixture(scope="module")
def others(place: Path) -> dict[str, Path]:
    """Of one update of families that have ways of their own."""
    return {
        family: train(recipe_of(place, place / f"of-{family}", 1, model={"base": str(place / family)})).path
        for family in ("sdxl", *FLOWS)
    }


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
    """The record names each column with its kind and annotator; `annotate --like` makes all of them."""
    record = json.loads((output / "condition.json").read_text())
    assert record["kind"] is None
    assert [(one["column"], one["kind"]) for one in record["conditions"]] == list(zip(COLUMNS, KINDS))
    assert [one["column"] for one in record["annotators"]] == COLUMNS
    picture = next((place / "ds-pictures").glob("*.png"))
    (found,) = condprep.annotate([picture], like=output)
    assert isinstance(found, Annotated)
    assert list(found.maps) == COLUMNS


def test_the_card_says_how_diffusers_takes_each_kind(output: Path, others: dict[str, Path]) -> None:
    """By its channels or its number, of a folder that diffusers loads."""
    for folder, kind, name, row in (
        (output, ControlNetModel, "image", "| softedge | 4 to 7 |"),
        (others["sdxl"], ControlNetUnionModel, "control_image", "| softedge | 2 |"),
        (others["flux"], FluxControlNetModel, "control_image", "| softedge | 1 |"),
        (others["sd3"], SD3ControlNetModel, "control_image", "in this order:\ncanny, softedge, tile."),
    ):
        card = (folder / "README.md").read_text()
        assert "# ControlNet for canny, softedge, tile conditions" in card
        assert f'{name}={{"canny": load_image("maps/photo.canny.png"), "softedge": ' in card
        assert row in card
        kind.from_pretrained(folder)


def test_the_pipeline_takes_one_kind_or_several(place: Path, output: Path, others: dict[str, Path]) -> None:
    """By name; a map that looks like another kind than it is said to be is warned of."""
    edges, picture = diagonal(), Image.open(next((place / "ds-pictures").glob("*.png")))
    for folder, name in ((output, "image"), *((one, "control_image") for one in others.values())):
        pipe: Any = load_pipeline(folder)
        pipe.set_progress_bar_config(disable=True)
        how: dict[str, Any] = {"num_inference_steps": 1, "height": 64, "width": 64, "output_type": "latent"}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            both = pipe("a disc", **{name: {"canny": edges, "tile": picture}}, **how).images
        assert len(both) == 1
        warned = "the condition looks like canny, but this ControlNet was trained on tile"
        with pytest.warns(UserWarning, match=warned) as said:
            pipe("a disc", **{name: {"tile": edges}}, **how)
        assert said[0].filename == __file__


@pytest.mark.filterwarnings("ignore:the condition looks like canny")
def test_a_sample_says_of_which_kind_its_condition_is(output: Path, tmp_path: Path) -> None:
    """It is needed, and must be one of those that were trained on; to a ControlNet that listens other kinds are other pictures."""
    map_, listens = diagonal(), ControlNetModel.from_pretrained(output)
    stir(listens)
    for name in ("condition.json", "training.json"):
        copy(output / name, tmp_path)
    listens.save_pretrained(tmp_path)
    pictures = [np.asarray(sample(tmp_path, map_, "a disc", steps=1, kind=kind)) for kind in ("canny", "tile")]
    assert not np.array_equal(*pictures)
    for kind, message in ((None, "say with --kind"), ("depth", "--kind depth: this ControlNet was trained on canny,")):
        with pytest.raises(ModelError, match=message):
            sample(output, map_, "a disc", steps=1, kind=kind)


def test_other_programs_have_no_channels_for_it(output: Path, tmp_path: Path) -> None:
    """A file with the names of the original is refused; one with its own names holds its channels."""
    for to in ("comfyui", "a1111"):
        with pytest.raises(ModelError, match='come in 12 channels, and the original has three; say "single-file"'):
            export(output, tmp_path / "one.safetensors", to=to)
    file = export(output, tmp_path / "one.safetensors", to="single-file", precision="fp32")
    assert load_file(file)["controlnet_cond_embedding.conv_in.weight"].shape[1] == 12


def test_an_evaluation_is_of_one_kind(output: Path) -> None:
    """Of the one that is asked for, by its own annotator and its own column, on held-out rows and on those that were trained on."""
    found = evaluate(output, rows=2, sampler_steps=1, kind="softedge")
    assert (found.kind, found.annotator, found.measure) == ("softedge", "hed:tensor", "ssim")
    assert "train rows" in found.arms
    assert found.scores["real"]["ssim"].mean == pytest.approx(1, abs=1e-3)
    with pytest.raises(ModelError, match="trained on canny, softedge, tile: say with --kind which"):
        evaluate(output, rows=2)


def test_the_plan_names_all_kinds(place: Path, output: Path, tmp_path: Path) -> None:
    """Of a run that could begin."""
    several = plan_training(recipe_of(place, tmp_path / "out", 4))
    assert (several.family, several.kind) == ("sd", "canny, softedge, tile")


def test_a_page_is_of_one_kind(place: Path, output: Path) -> None:
    """Of the one that is asked for: its annotator alone makes the condition, and the ControlNet is told which kind it is."""
    with pytest.raises(ModelError, match="trained on canny, softedge, tile: say with --kind which"):
        open_page(output)
    picture = next((place / "ds-pictures").glob("*.png"))
    (expected,) = condprep.annotate([picture], like=output)
    assert isinstance(expected, Annotated)
    application = open_page(output, kind="softedge", device="cpu").application("127.0.0.1")
    with TestClient(application, base_url="http://127.0.0.1:7860") as client:
        assert "softedge" in client.get("/").text
        made = client.post("/photographs", content=picture.read_bytes()).json()
        shown = Image.open(io.BytesIO(client.get(made["pictures"]["condition"]).content))
        assert np.array_equal(np.asarray(shown.convert("L")), expected.maps[COLUMNS[KINDS.index("softedge")]])
        asked = {"prompt": "a disc", "strength": 1, "seed": 0, "steps": 1, "cfg": 1, "photograph": made["name"]}
        found = client.post("/generations", json=asked).json()
        while found["state"] in ("waiting", "running"):
            found = client.get(f"/generations/{found['name']}").json()
        assert (found["state"], set(found["pictures"])) == ("done", {"controlnet", "base"})


def test_what_a_result_is_held_against_knows_the_same_kinds(output: Path, tmp_path: Path) -> None:
    """In the same order, or a channel of edges would be given something else; said before anything is loaded."""
    other = copytree(output, tmp_path / "other")
    record = json.loads((other / "condition.json").read_text())
    record["conditions"].reverse()
    (other / "condition.json").write_text(json.dumps(record))
    message = "other was made for tile, softedge, canny, and .* for canny, softedge, tile: it must have the same kinds"
    with pytest.raises(ModelError, match=message):
        evaluate(output, rows=2, sampler_steps=1, kind="canny", against=other)
