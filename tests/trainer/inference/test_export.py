"""The result: diffusers loads it, condprep makes its conditions, its pipeline says when a condition is of another kind."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image
from support.pictures import size_of
from support.trainer_models import build_dataset, save_base
from support.warm import Warm
from typer.testing import CliRunner

import condprep
from condprep.annotation.pictures import Annotated
from condprep.errors import UsageError
from trainer import load_pipeline, sample, train
from trainer.cli.main import app
from trainer.errors import ModelError
from trainer.inference.export import condition_record
from trainer.inference.pipeline import _checking, _drawn_with, far_from_training, fit_condition, unlike
from trainer.recipe.outcome import Eval
from trainer.recipe.toml import load_recipe, parse_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL base and one of SD 2, and a dataset of canny maps."""
    folder = tmp_path_factory.mktemp("export")
    save_base(folder / "sdxl", "sdxl")
    save_base(folder / "sd2", "sd2")
    build_dataset(folder / "ds", rows=16, params={"canny": {"low": 50}})
    return folder


def run(place: Path, family: str, **tables: dict[str, Any]) -> Path:
    """The folder of a short run."""
    out = place / f"output-{family}"
    values: dict[str, dict[str, Any]] = {
        "model": {"base": str(place / family)},
        "data": {"path": str(place / "ds"), "resolution": 64, "num_workers": 0},
        "train": {
            "steps": 3,
            "batch": 4,
            "micro_batch": 4,
            "precision": "fp32",
            "lr": 1e-2,
            "warmup": 1,
            "device": "cpu",
        },
        "eval": {"every": 3, "samples": 2, "sampler_steps": 2, "loss_rows": 4},
        "log": {"tracker": "tensorboard"},
        "save": {"dir": str(out)},
    }
    train(parse_recipe({name: values.get(name, {}) | tables.get(name, {}) for name in values.keys() | tables.keys()}))
    return out


@pytest.fixture(scope="module")
def output(place: Path) -> Path:
    return run(place, "sd2")


@pytest.fixture(scope="module")
def output_xl(place: Path) -> Path:
    quick = {"precision": "bf16", "steps": 1, "batch": 2, "micro_batch": 2}  # a CPU takes its time for bf16
    return run(place, "sdxl", train=quick, ema={"enabled": False}, eval={"every": 0})


def a_map(place: Path) -> Image.Image:
    from datasets import load_from_disk

    image: Image.Image = load_from_disk(str(place / "ds"))["validation"][0]["conditioning_image"]
    return image


def test_the_folder_is_a_controlnet_of_diffusers(place: Path, output: Path) -> None:
    """from_pretrained loads it, the averaged weights at its root, and the standard pipeline generates with it."""
    parts = {part: ControlNetModel.from_pretrained(output / part).state_dict() for part in (".", "raw", "ema")}
    assert all(parts["."][name].equal(parts["ema"][name]) for name in parts["."])
    assert not all(parts["."][name].equal(parts["raw"][name]) for name in parts["."])
    base = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        place / "sd2", controlnet=ControlNetModel.from_pretrained(output), **base
    )
    assert pipe("a disc", image=a_map(place), num_inference_steps=2).images[0].size == (64, 64)


def test_without_an_average_the_last_weights_are_the_best(output_xl: Path) -> None:
    """No ema folder; the root has the raw weights, fp32 also where bf16 was trained with."""
    assert not (output_xl / "ema").exists()
    root, raw = (
        ControlNetModel.from_pretrained(folder, torch_dtype="auto") for folder in (output_xl, output_xl / "raw")
    )
    assert root.dtype == torch.float32
    assert all(a.equal(b) for a, b in zip(root.parameters(), raw.parameters()))


def test_the_pipeline_finds_its_base(place: Path, output: Path, output_xl: Path) -> None:
    """load_pipeline gives the family's own pipeline; raw weights on demand; what is not there is said."""
    pipe = load_pipeline(output, weights="raw", device="cpu")
    assert isinstance(pipe, StableDiffusionControlNetPipeline)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    raw = ControlNetModel.from_pretrained(output / "raw")
    assert all(a.equal(b) for a, b in zip(pipe.controlnet.parameters(), raw.parameters()))
    assert isinstance(load_pipeline(output_xl, precision="bf16", device="cpu"), StableDiffusionXLControlNetPipeline)
    with pytest.raises(ModelError, match="has no ema weights"):
        load_pipeline(output_xl, weights="ema")
    with pytest.raises(ModelError, match="holds no result of the trainer"):
        load_pipeline(place)


def test_a_pipeline_is_saved_under_its_own_name(output: Path, tmp_path: Path) -> None:
    """That it looks at conditions does not show in what it saves."""
    load_pipeline(output, device="cpu").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionControlNetPipeline"


def test_a_sample_depends_on_seed_and_condition_alone(place: Path, output: Path) -> None:
    """The same call gives the same picture; another seed gives another one. What is not said is as the run's own pictures are drawn."""
    how: dict[str, Any] = {"steps": 2, "device": "cpu"}
    assert _drawn_with(output) == load_recipe(output / "recipe.toml").eval != Eval()
    assert _drawn_with(place) == Eval()
    first, again, other = (
        np.asarray(sample(output, a_map(place), "a red disc", seed=seed, **how)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (64, 64, 3)


def test_a_condition_of_another_kind_is_warned_of(place: Path, output: Path) -> None:
    """A canny ControlNet given a photograph, or an inverted map, warns; its own kind passes silently."""
    pipe = load_pipeline(output, device="cpu")
    own = a_map(place).convert("RGB")
    from skimage import data

    photo = Image.fromarray(data.astronaut()).resize((64, 64))
    for image, expected in ((photo, "looks like picture, but"), (Image.eval(own, lambda v: 255 - v), "inverted")):
        with pytest.warns(UserWarning, match=expected):
            pipe("a disc", image=image, num_inference_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe("a disc", own, num_inference_steps=1)
    assert unlike(own, "canny") is None
    assert unlike(torch.zeros(1, 3, 64, 64), "canny") is None


def test_condprep_makes_the_condition_of_a_controlnet(place: Path, output: Path) -> None:
    """annotate(like=output) equals annotate(like=dataset), with its annotator, parameters and geometry."""
    picture = sorted((place / "ds-pictures").glob("*.png"))[0]
    ((ours,), (theirs,)) = (condprep.annotate([picture], like=folder) for folder in (output, place / "ds"))
    assert isinstance(ours, Annotated)
    (mine,), (expected,) = ours.maps.values(), theirs.maps.values()
    np.testing.assert_array_equal(np.asarray(mine), np.asarray(expected))
    assert json.loads((output / "condition.json").read_text())["annotators"][0]["params"] == {"low": 50}


def test_conditions_that_condprep_did_not_make_are_said_so(tmp_path: Path) -> None:
    """There is nothing to repeat then, and the message does not speak of a damaged file."""
    record = condition_record(tmp_path, ["conditioning_image"], ["depth"], 512)
    assert (record["kind"], record["annotators"]) == ("depth", [])
    (tmp_path / "condition.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="trained on conditions that condprep did not make"):
        condprep.annotate([tmp_path / "a.jpg"], like=tmp_path)


def test_the_card_and_the_recipe_tell_the_run(place: Path, output: Path) -> None:
    """README.md has kind, figures, use, data and recipe; recipe.toml is the resolved recipe; samples are pictures."""
    card = (output / "README.md").read_text()
    for part in ("# ControlNet for canny conditions", "3 updates of 4 pictures", "samples/00000003.png", "low = 50"):
        assert part in card
    assert load_recipe(output / "recipe.toml").train.lr == 1e-2
    assert [path.name for path in sorted((output / "samples").iterdir())] == ["00000000.png", "00000003.png"]
    assert size_of(output / "samples" / "00000003.png")[0] > 3 * 256
    assert list((output / "logs").rglob("events.out.tfevents*"))


def test_the_command_samples(place: Path, output: Path, tmp_path: Path) -> None:
    """`python -m trainer sample` writes the picture, and nothing over another one."""
    a_map(place).save(tmp_path / "map.png")
    out = tmp_path / "made" / "picture.png"
    command = ["sample", str(output), "--condition", str(tmp_path / "map.png"), "--prompt", "a disc", "--steps", "2"]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert size_of(out) == (64, 64)
    assert isinstance(CliRunner().invoke(app, [*command, "--out", str(out)]).exception, UsageError)
    with pytest.raises(ModelError, match=r"a picture is a \.png"):
        CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a.gif")], catch_exceptions=False)


def test_a_condition_is_cut_to_the_grid() -> None:
    """The middle, in multiples of 64 pixels; what is smaller is refused with its size."""
    image = Image.fromarray(np.arange(200 * 140, dtype=np.uint8).reshape(140, 200))
    fitted = fit_condition(image)
    assert fitted.size == (192, 128)
    np.testing.assert_array_equal(np.asarray(fitted)[..., 0], np.asarray(image)[6:134, 4:196])
    with pytest.raises(ModelError, match="63 x 200 px is smaller than 64 pixels"):
        fit_condition(Image.new("L", (63, 200)))
    with pytest.raises(ModelError, match=r"condition missing\.png"):
        fit_condition("missing.png")


def test_a_map_of_another_size_than_the_training_is_told() -> None:
    """From half or twice as many pixels on, in whatever shape; of a result that does not say its size nothing is."""
    for size, told in {(512, 512): False, (768, 384): False, (1024, 1024): True, (320, 320): True}.items():
        assert bool(far_from_training(size, {"resolution": 512})) == told, size
    assert far_from_training((64, 64), {}) is None


class Shown:
    """Stands for a pipeline of diffusers: its picture is what it is shown."""

    def __call__(self, prompt: str, image: Any = None) -> Any:
        return image


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "P", "1"])
def test_a_map_in_memory_is_read_as_its_file(tmp_path: Path, mode: str) -> None:
    """A map is the same pixels as a file, as a picture in memory, and given to a pipeline: 16 bits are not clipped to white, and
    what is transparent is white, as in the dataset of which it learned."""
    levels = np.arange(64 * 64).reshape(64, 64)
    if mode == "I;16":
        image = Image.fromarray((levels * 15).astype(np.uint16))
    else:
        image = Image.fromarray((levels % 200).astype(np.uint8))
        image.putalpha(Image.fromarray((levels // 16).astype(np.uint8)))
        image = image.convert("RGBA").quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "map.png")
    image = Image.open(tmp_path / "map.png")
    assert image.mode == mode
    of_file = np.asarray(fit_condition(tmp_path / "map.png"))
    assert 50 < of_file.mean() < 250
    np.testing.assert_array_equal(np.asarray(fit_condition(image)), of_file)
    shown = _checking(Shown(), (None,))("a prompt", image=[image])
    np.testing.assert_array_equal(np.asarray(shown[0]), of_file)


@pytest.mark.slow
def test_training_from_the_command_line(place: Path, warm: Warm, tmp_path: Path) -> None:
    """From a TOML file to a result, in a process of its own: exit code 0, the result as JSON on standard output."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[model]\nbase = '{place / 'sd2'}'\n[data]\npath = '{place / 'ds'}'\nresolution = 64\n")
    settings = [
        f"save.dir={tmp_path / 'out'}",
        "train.steps=2",
        "train.batch=4",
        "train.precision=fp32",
        "eval.every=0",
    ]
    code, shown, errors = warm.run(tmp_path, "trainer", recipe, "--json", *(f"--set={one}" for one in settings))
    assert code == 0, errors
    result = json.loads(shown)
    assert (result["updates"], result["finished"], result["path"]) == (2, True, str(tmp_path / "out"))
    assert ControlNetModel.from_pretrained(result["path"]).config.in_channels == 4
