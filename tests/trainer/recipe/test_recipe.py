"""Recipes: strict, explained in the user's own words, and written back as they were read."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import RecipeError
from trainer.recipe.idle import idle_notes
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import describe, dump_recipe, literal, load_recipe, parse_recipe, shipped_recipes

FIELDS = [
    (f"{table}.{key}", field)
    for table, outer in Recipe.model_fields.items()
    for key, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
]


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    """Every key has a default."""
    assert load_recipe(recipe(tmp_path, "")) == Recipe()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_found_by_name_and_by_path(name: str, monkeypatch: Any, tmp_path: Path) -> None:
    """A shipped recipe is valid, and is found from any folder, as `pose` and as `recipes/pose.toml`."""
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name) == load_recipe(f"recipes/{name}.toml")


def test_the_promised_recipes_are_shipped() -> None:
    """The six recipes that the documents name are there."""
    assert set(shipped_recipes()) >= {"canny", "pose", "depth", "softedge", "sdxl-pose", "low-vram-12gb"}


def test_a_file_goes_before_a_shipped_recipe_of_its_name(monkeypatch: Any, tmp_path: Path) -> None:
    """What the user points at is what is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canny.toml").write_text("train.batch = 4")
    assert load_recipe("canny.toml").train.batch == 4


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_printed_recipe_reads_back(name: str, tmp_path: Path) -> None:
    """`--print-recipe > file` is the same recipe, with every key in it."""
    text = dump_recipe(load_recipe(name))
    assert load_recipe(recipe(tmp_path, text)) == load_recipe(name)
    assert len(re.findall(r"^\w+ = ", text, re.MULTILINE)) == len(FIELDS)


@given(st.text().filter(lambda text: text.isprintable() or "\x7f" in text or "\n" in text))
def test_any_string_survives_being_written(text: str) -> None:
    """Quotes, backslashes, newlines, DEL: a recipe holds any prompt."""
    known = parse_recipe({"eval": {"prompts": [text], "conditions": ["map.png"]}})
    assert parse_recipe(tomllib.loads(dump_recipe(known))) == known


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"lrr": 1}}, ["train.lrr", "train.lr"]),
        ({"train": {"cfg": 1}}, ["train.cfg", "eval.cfg"]),
        ({"modle": {}}, ["modle", "model"]),
        ({"train": {"lr": "1e-5"}}, ["train.lr = '1e-5'", "a number above 0", "1e-05"]),
        ({"train": {"lr": -1.0}}, ["train.lr = -1.0", "above 0"]),
        ({"train": {"lr": float("nan")}}, ["train.lr = nan", "above 0"]),
        ({"train": {"steps": 1.5}}, ["train.steps = 1.5", "an integer from 0"]),
        ({"train": {"micro_batch": True}}, ["train.micro_batch = True", 'an integer from 1 or "auto"']),
        ({"train": {"precision": "fp8"}}, ["'fp8'", '"bf16", "fp16" or "fp32"']),
        ({"train": {"betas": [0.9]}}, ["train.betas = [0.9]", "a list of 2"]),
        ({"train": {"betas": [0.9, 1.0]}}, ["train.betas = 1.0", "below 1"]),
        ({"train": 5}, ["train = 5", "[train]"]),
        ({"data": {"resolution": 100}}, ["data.resolution = 100", "a multiple of 8"]),
        ({"data": {"path": ""}}, ["data.path = ''", "not empty"]),
        ({"data": {"hflip": 2.0}}, ["data.hflip = 2.0", "up to 1"]),
        ({"train": {"steps": 10, "epochs": 10}}, ["train.steps = 10", "train.epochs = 10", "one of the two"]),
        ({"train": {"steps": 0}}, ["train.steps = 0", "train.epochs = 0"]),
        ({"train": {"batch": 10, "micro_batch": 4}}, ["train.batch = 10", "train.micro_batch = 4"]),
        ({"data": {"crop": "random"}}, ["data.crop", "cache.latents = false"]),
        ({"eval": {"prompts": ["a", "b"]}}, ["eval.prompts", "eval.conditions", "2 and 0"]),
    ],
)
def test_a_mistake_is_answered_with_key_value_and_remedy(values: dict[str, Any], said: list[str]) -> None:
    """An unknown key gets the nearest one; a wrong value gets itself and what would be right."""
    with pytest.raises(RecipeError) as error:
        parse_recipe(values)
    assert all(words in str(error.value) for words in said), str(error.value)


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({"train": {"power": 3.0, "schedule": "cosine"}}, {"train.power": "train.schedule"}),
        ({"train": {"power": 3.0, "schedule": "polynomial", "betas": [0.8, 0.9]}}, {}),
        ({"train": {"warmup": 9, "schedule": "constant"}}, {"train.warmup": "train.schedule"}),
        ({"train": {"optimizer": "adafactor", "eps": 1e-6}}, {"train.eps": "train.optimizer"}),
        ({"ema": {"enabled": False, "decay": 0.9}}, {"ema.decay": "ema.enabled"}),
        ({"text": {"keep": 2}}, {"text.keep": "text.shuffle"}),
        ({"data": {"validation_by": "group"}}, {"data.validation_by": "data.validation"}),
        ({"data": {"validation_by": "group", "validation": 0.1}}, {}),
        ({"data": {"window": 9}}, {"data.window": "data.streaming"}),
        ({"data": {"window": 9, "streaming": True}, "cache": {"check": True}}, {"cache.check": "data.streaming"}),
        ({"model": {"base": "recipes", "revision": "v1"}}, {"model.revision": "model.base"}),
        ({"model": {"blocks": 4, "init": "other/controlnet"}}, {"model.blocks": "model.init"}),
        ({"eval": {"every": 0, "fidelity": True}}, {"eval.fidelity": "eval.every"}),
        ({"eval": {"samples": 3, "conditions": ["a"], "prompts": ["a"]}}, {"eval.samples": "eval.conditions"}),
        ({"eval": {"fidelity_rows": 3}}, {"eval.fidelity_rows": "eval.fidelity"}),
    ],
)
def test_a_key_that_does_nothing_is_told(values: dict[str, Any], idle: dict[str, str]) -> None:
    """With the key by which it does nothing; a key that does something, and defaults, are not told."""
    told = [note.split(" ") for note in idle_notes(parse_recipe(values))]
    assert {note[0]: note[note.index("since") + 1] for note in told} == idle


@pytest.mark.parametrize("name", shipped_recipes())
def test_no_key_of_a_shipped_recipe_does_nothing(name: str) -> None:
    """What is shipped says what it means."""
    assert idle_notes(load_recipe(name)) == []


def test_encoders_stay_where_rows_are_streamed() -> None:
    """What is cached is encoded before the first update, and the encoders leave the device; of a stream it comes with the rows."""
    assert parse_recipe({}).encoded_ahead == {"vae": True, "text": True}
    assert parse_recipe({"cache": {"text": False}}).encoded_ahead == {"vae": True, "text": False}
    assert parse_recipe({"data": {"streaming": True}}).encoded_ahead == {"vae": False, "text": False}


def test_epochs_replace_the_default_of_steps() -> None:
    """Who gives epochs alone gets epochs."""
    train = parse_recipe({"train": {"epochs": 3}}).train
    assert (train.steps, train.epochs) == (0, 3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.lr=2e-6", 2e-6),
        ("data.path=pictures/ds", "pictures/ds"),
        ("data.path='1234'", "1234"),
        ("cache.latents=false", False),
        ('eval.conditions=["a.png"]', ("a.png",)),
        ('save.resume="never"', "never"),
    ],
)
def test_set_replaces_a_key(setting: str, value: Any, tmp_path: Path) -> None:
    """`--set` takes TOML values, and strings without their quotes."""
    settings = [setting, 'eval.prompts=["x"]'] if "conditions" in setting else [setting]
    table, _, key = setting.partition("=")[0].partition(".")
    assert getattr(getattr(load_recipe(recipe(tmp_path, ""), settings), table), key) == value


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.lrr=1"], "--set train.lrr=1: unknown key train.lrr"),
        (["train.lr=x"], "--set train.lr=x: train.lr = 'x'"),
        (["trian.lr=1"], "--set trian.lr=1: unknown table trian"),
        (["train.steps=5", "train.epochs=5"], "--set train.steps=5 --set train.epochs=5: "),
        (["train.micro_batch=3"], "--set train.micro_batch=3: train.batch = 16 is not a multiple"),
    ],
)
def test_a_slip_in_a_setting_is_not_blamed_on_the_file(settings: list[str], said: str, tmp_path: Path) -> None:
    """What is wrong with a `--set` quotes it; what is wrong with the file names the file, whatever else was set."""
    with pytest.raises(RecipeError, match="^" + re.escape(said)):
        load_recipe(recipe(tmp_path, ""), settings)
    with pytest.raises(RecipeError, match=r"^.*recipe\.toml: unknown key train\.lrr"):
        load_recipe(recipe(tmp_path, "[train]\nlrr = 1"), ["train.steps=5"])


@pytest.mark.parametrize("setting", ["train.lr", "lr=1", "=", ".lr=1", "train.=1"])
def test_a_setting_of_another_form_is_refused(setting: str, tmp_path: Path) -> None:
    """What is not table.key=value says so."""
    with pytest.raises(RecipeError, match=r"table\.key=value"):
        load_recipe(recipe(tmp_path, ""), [setting])


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    """A syntax error is found by its line."""
    with pytest.raises(RecipeError, match=r"recipe\.toml is no TOML: .*line 2"):
        load_recipe(recipe(tmp_path, "[train]\nlr = = 1"))


def test_a_missing_recipe_lists_the_shipped_ones() -> None:
    """A slip in a name shows the names there are."""
    with pytest.raises(RecipeError, match=r"'cany'; shipped are canny, "):
        load_recipe("cany")


@pytest.mark.parametrize(("key", "field"), FIELDS, ids=[key for key, _ in FIELDS])
def test_a_default_is_what_its_own_description_allows(key: str, field: Any) -> None:
    """Every default passes as an explicit value, and what a key may be can be said in words."""
    table, _, name = key.partition(".")
    parse_recipe({table: {name: json.loads(json.dumps(field.default))}})
    assert describe(field)
    assert literal(field.default)
