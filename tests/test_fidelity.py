"""Evaluations: ControlNets that follow, ignore or memorise are told apart, and what is written can be read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from test_docs import DOCS, _default, _names, section, tables, ticked
from trainer_models import build_dataset, save_base, save_pictures
from typer.main import get_command

import condprep
import condprep.annotators as table
from condprep import AnnotatorSpec
from condprep.annotators.openpose.keypoints import KEYPOINTS, Pose, column_value
from condprep.errors import UsageError
from condprep.geometry import Placement
from condprep.types import Maps
from trainer import cli
from trainer.errors import DataError, ModelError
from trainer.fidelity.diagnosis import CAUSES, WELL, Numbers, diagnose, plateau, share
from trainer.fidelity.evaluate import evaluate
from trainer.fidelity.generate import Sampling, Task, another, generate, tasks, through_vae
from trainer.fidelity.protocols import PROTOCOLS
from trainer.fidelity.report import ranking, write_report
from trainer.fidelity.result import Fidelity, Trained, conclude
from trainer.fidelity.rows import Reannotator, Row, _placed, partners, read_rows, reannotator
from trainer.fidelity.scores import MEASURES
from trainer.fidelity.trial import ARMS, Arm, Trial
from trainer.loop import train
from trainer.pipeline import load_pipeline
from trainer.recipe import Recipe
from trainer.source import open_source

HOW = Sampling(steps=2, cfg=1.0, pictures=1, seed=0, batch=4)
NOTHING = Trained(None, "", None, ())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a dataset of 48 rows of which a quarter is held out, and a ControlNet of two updates."""
    folder = tmp_path_factory.mktemp("fidelity")
    save_base(folder / "base")
    build_dataset(folder / "ds", rows=48)
    train(make_recipe(folder, folder / "output"))
    return folder


def make_recipe(place: Path, out: Path, **tables: dict[str, Any]) -> Recipe:
    settings: dict[str, dict[str, Any]] = {
        "model": {"base": str(place / "base")},
        "data": {"path": str(place / "ds"), "resolution": 64, "num_workers": 0},
        "train": {"steps": 2, "batch": 4, "precision": "fp32", "lr": 1e-3, "warmup": 1, "device": "cpu"},
        "eval": {"every": 0, "sampler_steps": 2, "cfg": 1.0},
        "log": {"every": 1, "tracker": "none"},
        "save": {"dir": str(out)},
    }
    return Recipe.model_validate({name: table | tables.get(name, {}) for name, table in settings.items()})


@pytest.fixture(scope="module")
def rows(place: Path) -> list[Row]:
    """Twelve rows."""
    return read_rows(open_source(make_recipe(place, place / "none"), "train", training=False), 12)


class Painter:
    """Stands for a pipeline: `paint` makes the picture of a condition and a prompt, and the VAE changes nothing."""

    def __init__(self, paint: Callable[[Image.Image, str], Image.Image]) -> None:
        self.paint = paint
        self.controlnet = None
        self.vae = SimpleNamespace(
            device="cpu",
            dtype=torch.float32,
            encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x)),
            decode=lambda x: SimpleNamespace(sample=x),
        )

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    def __call__(self, prompts: list[str], image: list[Image.Image], **how: Any) -> Any:
        blank = Image.new("RGB", image[0].size, (90, 90, 90))
        strong = how["controlnet_conditioning_scale"] > 0
        return SimpleNamespace(images=[self.paint(i, p) if strong else blank for i, p in zip(image, prompts)])


def follower(rows: list[Row]) -> Painter:
    """Gives the very picture from which a condition was made."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows}
    return Painter(lambda condition, _: known[condition.tobytes()])


def tried(pipe: Any, held_out: list[Row], seen: list[Row] = [], trained: Trained = NOTHING) -> Fidelity:  # noqa: B006
    trial = Trial(pipe, Reannotator("canny", {}, "cpu", None), "canny", HOW)
    own, real = trial.generated("controlnet", held_out), trial.real(held_out)
    arms = [
        own,
        *trial.other_maps("other map", own),
        *trial.foreign(held_out),
        trial.generated("base", held_out, strength=0.0),
        *([trial.generated("train rows", seen)] if seen else []),
        real,
        *trial.other_maps("real, other map", real),
        trial.vae(held_out),
    ]
    return conclude(trial, {arm.name: arm for arm in arms}, trained, {}, 0.0)


def named(found: Fidelity) -> list[str]:
    return [finding.name for finding in found.findings]


def test_a_controlnet_that_follows(rows: list[Row]) -> None:
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


def test_a_controlnet_that_ignores_its_condition(rows: list[Row]) -> None:
    """One that paints the same picture whatever the condition is found out, though its pictures are sharp."""
    found = tried(Painter(lambda *_: Image.fromarray(rows[0].original)), rows[1:])
    assert named(found) == ["ignoring"]


def test_a_controlnet_that_memorises(rows: list[Row]) -> None:
    """One that paints what it was trained on, and nothing for half of the other conditions, is found out."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows[:8]}
    pipe = Painter(lambda condition, _: known.get(condition.tobytes(), Image.new("RGB", condition.size)))
    found = tried(pipe, rows[4:], rows[:4])
    assert found.scores["train rows"]["f1_2px"].mean == 1
    assert 0.1 < found.follows < 0.75
    assert "memorising" in named(found)


def test_a_controlnet_that_reads_captions_alone(rows: list[Row]) -> None:
    """One that paints what the caption says follows with its own captions and not with foreign ones: it is named."""
    told = [replace(row, prompt=f"picture {number}") for number, row in enumerate(rows)]
    known = {row.prompt: Image.fromarray(row.original) for row in told}
    found = tried(Painter(lambda _, prompt: known[prompt]), told)
    assert found.scores["controlnet"]["f1_2px"].mean == found.scores["foreign condition"]["f1_2px"].mean == 1
    assert found.scores["foreign caption"]["f1_2px"].mean < 0.6
    assert named(found) == ["leans on captions"]


def test_conditions_of_another_kind_are_named(rows: list[Row]) -> None:
    """A ControlNet that was trained on depth and is tried on edges is found out, whatever its pictures are."""
    blank = Painter(lambda condition, _: Image.new("RGB", condition.size))
    assert named(tried(blank, rows, trained=Trained("depth", "", None, ()))) == ["wrong kind", "ignoring"]


def test_a_loss_that_stands_still_is_a_plateau(rows: list[Row]) -> None:
    """Pictures that follow for half of the rows, and a held-out loss that no longer falls: a plateau, else patience."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows[::2]}
    half = Painter(lambda condition, _: known.get(condition.tobytes(), Image.new("RGB", condition.size)))
    still, falling = (tried(half, rows, trained=Trained("canny", "", 1.5, losses)) for losses in (STILL, FALLING))
    assert "plateau" in named(still)
    assert "follows in part" in named(falling)


def test_blurry_pictures_are_called_blurry(rows: list[Row]) -> None:
    """The right picture behind a Gaussian of 3 px follows less, and is called blurry."""
    sharp = follower(rows)
    found = tried(Painter(lambda c, p: sharp.paint(c, p).filter(ImageFilter.GaussianBlur(3))), rows)
    assert "blurry" in named(found)


@pytest.mark.parametrize("harm", ["shift", "shuffle"])
def test_pairs_that_do_not_belong_together_are_named(rows: list[Row], harm: str) -> None:
    """Maps shifted by 8 px, or exchanged, are found by the real pictures' own score, whatever the ControlNet does."""
    if harm == "shift":
        wrong = [replace(row, condition=np.roll(row.condition, 8, (0, 1))) for row in rows]
    else:
        wrong = [replace(row, condition=rows[n - 3].condition) for n, row in enumerate(rows)]
    assert "maps do not belong" in named(tried(follower(wrong), wrong))


class Posed:
    """An annotator that finds one person, as far to the right as the first pixel is red."""

    name, variant, device, batch_size, binary = "posed", "", "cpu", 4, False
    columns: ClassVar[Any] = {"keypoints": KEYPOINTS}
    provenance: ClassVar[Any] = {"parameters": {}, "weights": {}, "licence": "", "commercial": True}

    def __call__(self, rgb: torch.Tensor, keys: list[str]) -> Maps:
        people = [column_value([Pose(standing(int(picture[0, 0, 0])))]) for picture in rgb]
        return Maps(torch.zeros_like(rgb), {"keypoints": people})


def standing(right: float) -> Any:
    """A body of 18 points, 30 px high."""
    points = np.array([(right + n % 3 * 5, 10 + n * 30 / 17, 0.8) for n in range(18)])
    return points.astype(np.float32)


def test_poses_are_tried_by_their_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keypoints, not pixels, decide: OKS, PCK and AP are 1 for a ControlNet that follows, and AP is 0 at chance."""
    spec = AnnotatorSpec(name="posed", summary="", load=lambda *_, **__: Posed())
    monkeypatch.setattr(table, "BUILTIN", (*table.BUILTIN, spec))
    some = [
        Row(str(n), "", np.full((64, 64, 3), 40 * n, np.uint8), np.full((64, 64, 3), n, np.uint8), [standing(40 * n)])
        for n in range(1, 5)
    ]
    trial = Trial(follower(some), Reannotator("posed", {}, "cpu", None), "pose", HOW)
    own = trial.generated("controlnet", some)
    found, chance = trial.summary(own), trial.summary(*trial.other_maps("other map", own))
    assert [found[name].mean for name in ("oks", "pck", "ap")] == pytest.approx([1, 1, 1])
    assert chance["oks"].mean < 0.1
    assert chance["ap"].mean == 0


def test_people_move_with_their_picture() -> None:
    """Keypoints of a stored picture that is cropped and halved are where the limbs are then; missing ones stay 0, 0, 0."""
    body = standing(40)
    body[3] = 0
    moved = _placed(body, Placement((0, 32, 128, 64), (64, 32), (64, 32)))
    assert moved[0].tolist() == pytest.approx([(body[0, 0] - 32) / 2, body[0, 1] / 2, 0.8])
    assert moved[3].tolist() == [0, 0, 0]


def test_a_pipeline_without_its_controlnet_is_the_base(place: Path, rows: list[Row]) -> None:
    """Strength 0 is the base alone, bit for bit: the same picture for any condition."""
    pipe = load_pipeline(place / "output")
    wanted = tasks(rows[:2], [rows[0].image, rows[1].image], 1)
    others = tasks(rows[:2], [rows[1].image, rows[0].image], 1)
    made, again = (generate(pipe, some, HOW, strength=0.0, done=lambda _: None) for some in (wanted, others))
    assert all(np.array_equal(a, b) for a, b in zip(made, again))


def test_a_picture_has_its_own_seed(place: Path, rows: list[Row]) -> None:
    """A row's picture is the same alone and in a batch, and another with another seed or number."""
    pipe = load_pipeline(place / "output")
    wanted = tasks(rows[:3], [row.image for row in rows[:3]], 2)
    together = generate(pipe, wanted, HOW, done=lambda _: None)
    (alone,) = generate(pipe, wanted[3:4], HOW, done=lambda _: None)
    assert np.abs(together[3].astype(int) - alone).max() <= 1
    assert not np.array_equal(together[2], together[3])
    task = Task(rows[0], rows[0].image)
    assert task.generator(0).initial_seed() != task.generator(1).initial_seed()


def test_the_vae_round_trip_is_that_of_the_pipeline(place: Path, rows: list[Row]) -> None:
    """Encoded at the posterior's mode and decoded: what diffusers' own image processor makes of it, within one level."""
    pipe: Any = load_pipeline(place / "output")
    (ours,) = through_vae(pipe, [rows[0].original])
    with torch.no_grad():
        pixels = pipe.image_processor.preprocess(Image.fromarray(rows[0].original))
        theirs = pipe.image_processor.postprocess(pipe.vae(pixels).sample)[0]
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


def test_another_controlnet_is_put_in_and_taken_out(place: Path, tmp_path: Path) -> None:
    """Within the context the pipeline has the other one; one of another base is refused."""
    pipe: Any = load_pipeline(place / "output")
    own = pipe.controlnet
    with another(pipe, str(place / "output" / "raw")):
        assert pipe.controlnet is not own
    assert pipe.controlnet is own
    config = json.loads((place / "output" / "config.json").read_text())
    wider = type(own).from_config(config | {"cross_attention_dim": 48})
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(ModelError, match="cross_attention_dim is 48, not 32"), another(pipe, str(tmp_path / "wider")):
        pass


def test_partners_have_one_size_and_are_others(rows: list[Row]) -> None:
    """Every row gets another one of its size; a row without one is left out."""
    wide = replace(rows[0], condition=np.zeros((64, 128, 3), np.uint8))
    other = partners([*rows, wide])
    assert sorted(other) == sorted(other.values()) == list(range(len(rows)))
    assert all(a != b for a, b in other.items())


def test_rows_are_annotated_as_their_dataset_was(place: Path, rows: list[Row]) -> None:
    """The dataset's annotator with its parameters, asked again, gives the stored maps."""
    found = reannotator(str(place / "ds"), "conditioning_image", None, "cpu")
    made = found([row.original for row in rows], [row.key for row in rows])
    assert found.label == found.kind == "canny"
    assert all(np.array_equal(one.pixels, row.condition[..., 0]) for one, row in zip(made, rows))


def test_random_thresholds_are_those_of_the_row(tmp_path: Path) -> None:
    """A variant that draws by the row's key draws the same again, so the real pictures score 1."""
    condprep.build(save_pictures(tmp_path / "raw"), tmp_path / "ds", "canny:random", resolution=64, captions="list")
    some = read_rows(open_source(make_recipe(tmp_path, tmp_path / "none"), "train", training=False), 9)
    found = reannotator(str(tmp_path / "ds"), "conditioning_image", None, "cpu")
    made = found([row.original for row in some], [row.key for row in some])
    assert all(np.array_equal(one.pixels, row.condition[..., 0]) for one, row in zip(made, some))


def test_a_dataset_that_does_not_say_who_annotated_it(tmp_path: Path) -> None:
    """The error names the remedy, and the remedy works."""
    with pytest.raises(DataError, match="--annotator"):
        reannotator(str(tmp_path), "conditioning_image", None, "cpu")
    assert reannotator(str(tmp_path), "conditioning_image", ("canny", {"low": 50}), "cpu").label == "canny"


@pytest.fixture(scope="module")
def found(place: Path) -> Fidelity:
    return evaluate(place / "output", rows=4, against=place / "output" / "raw", pictures_per_prompt=2)


def test_an_evaluation_has_every_arm(found: Fidelity) -> None:
    """A ControlNet of two updates on a random base: every anchor is there, and nothing is claimed of it."""
    assert set(found.arms) == set(ARMS)
    assert found.scores["real"]["f1_0px"].mean == 1
    assert [len(arm.rows) for arm in found.arms.values()] == [4] * len(ARMS)
    assert named(found)[0] == "lost in the VAE"
    assert math.isnan(found.follows)
    assert found.annotator == found.kind == "canny"
    assert json.loads(json.dumps(found.public()))["settings"]["pictures"] == 2


def test_an_evaluation_is_repeatable(place: Path, found: Fidelity) -> None:
    """The same seed gives the same scores; another gives other pictures."""
    again = evaluate(place / "output", rows=4, against=place / "output" / "raw", pictures_per_prompt=2, batch=3)
    other = evaluate(place / "output", rows=4, pictures_per_prompt=2, seed=1)
    first, second, third = ([arm.pictures for arm in one.arms.values()] for one in (found, again, other))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for x, y in zip(first, second) for a, b in zip(x, y))
    assert not np.array_equal(first[0][0], third[0][0])


def test_train_rows_are_only_those_that_were_trained_on(place: Path, tmp_path: Path) -> None:
    """With another dataset there is no such arm, and a note says why."""
    build_dataset(tmp_path / "other", rows=20)
    found = evaluate(place / "output", tmp_path / "other", rows=3)
    assert "train rows" not in found.arms
    assert any("memorising" in note for note in found.notes)


def test_a_report_can_be_read(found: Fidelity, tmp_path: Path) -> None:
    """JSON with every number, a Parquet line for each row and arm, two grids, and a page that asks for nothing else."""
    write_report(found, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["scores"]["controlnet"]["f1_2px"]["mean"] == found.scores["controlnet"]["f1_2px"].mean
    table = pq.read_table(tmp_path / "report" / "rows.parquet").to_pylist()
    mine = [line["f1_2px"] for line in table if line["arm"] == "controlnet"]
    assert np.mean(mine) == pytest.approx(found.scores["controlnet"]["f1_2px"].mean)
    for name in ("worst.png", "best.png"):
        assert Image.open(tmp_path / "report" / name).width > 1000
    page = (tmp_path / "report" / "index.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert all(arm in page for arm in ARMS)


@pytest.mark.parametrize(("measure", "worst"), [("f1_0px", "a"), ("depth_rmse", "b")])
def test_the_worst_rows_come_first(measure: str, worst: str) -> None:
    """By the leading measure, whichever way it is better; a row without a value is neither among the worst nor the best."""
    keys = {"a": 0.1, "b": 0.9, "c": 0.5, "none": math.nan}
    some = [Row(key, "", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)) for key in keys]
    arm = Arm("controlnet", some, [], [], [{measure: value} for value in keys.values()])
    order = ranking(SimpleNamespace(measure=measure, arms={"controlnet": arm}))  # type: ignore[arg-type]
    assert [some[number].key for number in order] == sorted("abc", key="acb".index, reverse=worst == "b")


def test_captions_cannot_write_the_page(found: Fidelity, tmp_path: Path) -> None:
    """What comes from the dataset is text, not markup."""
    evil = replace(found, settings={**found.settings, "dataset": "<img src=x onerror=alert(1)>"})
    write_report(evil, tmp_path)
    assert "<img src=x" not in (tmp_path / "index.html").read_text()


def test_a_report_leaves_other_things_alone(found: Fidelity, tmp_path: Path) -> None:
    """A folder that holds no report is refused; one that does is written again."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("")
    with pytest.raises(UsageError, match="holds no report"):
        write_report(found, tmp_path / "mine")
    write_report(found, tmp_path / "report")
    write_report(found, tmp_path / "report")


def test_the_second_controlnet_is_compared_row_by_row(rows: list[Row]) -> None:
    """How far ahead one is of the other is the mean of the rows' differences, and a note says who is better."""
    trial = Trial(follower(rows), Reannotator("canny", {}, "cpu", None), "canny", HOW)
    blank = replace(trial, pipe=Painter(lambda condition, _: Image.new("RGB", condition.size)))
    arms = [trial.generated("controlnet", rows), trial.real(rows), trial.vae(rows)]
    arms += trial.other_maps("other map", arms[0]) + trial.other_maps("real, other map", arms[1])

    def against(second: Trial) -> Fidelity:
        all_of_them = [*arms, second.generated("against", rows)]
        return conclude(trial, {arm.name: arm for arm in all_of_them}, NOTHING, {}, 0.0)

    ahead, same = against(blank), against(trial)
    assert ahead.ahead.mean == ahead.scores["controlnet"]["f1_2px"].mean - ahead.scores["against"]["f1_2px"].mean == 1
    assert any("second ControlNet: better" in note for note in ahead.notes)
    assert (same.ahead.low, same.ahead.high) == (0, 0)
    assert any("neither better nor worse" in note for note in same.notes)
    assert conclude(trial, {arm.name: arm for arm in arms}, NOTHING, {}, 0.0).ahead.rows == 0


def test_a_protocol_sets_what_it_names(place: Path) -> None:
    """ControlNet++: its settings, detectors and measures, as its evaluation scripts have them."""
    named = PROTOCOLS["controlnet-plus-plus"]
    assert (named.resolution, named.steps, named.cfg, named.pictures) == (512, 20, 7.5, 4)
    assert named.negative_prompt == "worst quality, low quality"
    assert {kind: (one.annotator, one.remakes) for kind, one in named.detectors.items()} == {
        "canny": ("canny", True),
        "softedge": ("hed", True),
        "depth": ("depth:Intel/dpt-large", False),
    }
    assert named.measures == {"canny": "f1_0px", "softedge": "ms_ssim", "lineart": "ms_ssim", "depth": "depth_rmse"}
    assert all(measure in MEASURES[kind] for kind, measure in named.measures.items())
    with pytest.raises(ModelError, match="there is controlnet-plus-plus"):
        evaluate(place / "output", protocol_name="their-paper")


def test_an_evaluation_by_protocol(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions are made by the protocol's detector; what is asked for goes before it; the rest is in the settings."""
    monkeypatch.setitem(PROTOCOLS, "small", replace(PROTOCOLS["controlnet-plus-plus"], resolution=64))
    raw = save_pictures(tmp_path / "raw", rows=24)
    condprep.build(raw, tmp_path / "ds", "canny:random", resolution=64, captions="list", validation=0.3)
    found = evaluate(place / "output", tmp_path / "ds", rows=3, protocol_name="small", sampler_steps=2)
    settings = {name: found.settings[name] for name in ("steps", "cfg", "pictures", "negative_prompt", "resolution")}
    assert list(settings.values()) == [2, 7.5, 4, "worst quality, low quality", 64]
    assert found.measure == "f1_0px"
    assert found.annotator == "canny"
    rows = found.arms["real"].rows
    assert all(np.array_equal(row.condition[..., 0], cv2.Canny(row.original, 100, 200)) for row in rows)
    assert found.scores["real"]["f1_0px"].mean == 1


def test_a_negative_prompt_is_asked_of_every_picture(rows: list[Row]) -> None:
    """The pipeline is given it once a picture, and nothing at all where there is none."""
    given: list[Any] = []

    class Listener(Painter):
        def __call__(self, prompts: list[str], image: list[Image.Image], **how: Any) -> Any:
            given.append(how["negative_prompt"])
            return super().__call__(prompts, image, **how)

    pipe = Listener(lambda condition, _: condition)
    wanted = tasks(rows[:2], [row.image for row in rows[:2]], 1)
    for how in (HOW, replace(HOW, negative_prompt="blurred")):
        generate(pipe, wanted, how, done=lambda _: None)
    assert given == [None, ["blurred", "blurred"]]


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    """The message names what is missing."""
    with pytest.raises(ModelError, match="holds no result"):
        evaluate(tmp_path)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10))
def test_a_share_is_a_place_between_two_scores(value: float, chance: float, best: float) -> None:
    """0 at chance, 1 at the best, the same when lower is better, NaN where there is no between."""
    if abs(best - chance) < 1e-9:
        assert math.isnan(share(value, chance, best))
    else:
        assert share(chance, chance, best) == 0
        assert share(best, chance, best) == 1
        assert share(-value, -chance, -best) == pytest.approx(share(value, chance, best))


FALLING = [(n, 1 / (n + 1)) for n in range(12)]
STILL = [(n, 0.1 + 0.9 * 0.1**n) for n in range(12)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (Numbers(follows=0.9), ["follows"]),
        (Numbers(follows=0.02), ["ignoring"]),
        (Numbers(follows=0.3, clear=False), ["ignoring"]),
        (Numbers(follows=0.3, train=0.9), ["memorising"]),
        (Numbers(follows=0.8, train=0.9), ["follows"]),
        (Numbers(follows=0.4, losses=FALLING), ["follows in part"]),
        (Numbers(follows=0.4, losses=STILL), ["plateau"]),
        (Numbers(follows=0.9, losses=STILL), ["follows"]),
        (Numbers(follows=0.9, sharpness=0.4), ["blurry"]),
        (Numbers(follows=0.9, foreign=0.4), ["leans on captions"]),
        (Numbers(follows=0.9, vae=0.3), ["lost in the VAE"]),
        (Numbers(follows=0.05, real=0.1), ["maps do not belong", "ignoring"]),
        (Numbers(follows=0.05, kinds=("canny", "depth")), ["wrong kind", "ignoring"]),
        (Numbers(follows=0.9, kinds=("canny", None)), ["follows"]),
        (Numbers(follows=math.nan), ["not measured"]),
        (Numbers(follows=math.nan, vae=0.0), ["lost in the VAE"]),
    ],
)
def test_a_diagnosis(numbers: Numbers, expected: list[str]) -> None:
    """Each cause is told from the others, and has its advice."""
    findings = diagnose(numbers)
    assert [finding.name for finding in findings] == expected
    assert all(finding.advice or finding.name == "follows" for finding in findings)


def test_the_condition_gap_tells_late_from_never() -> None:
    """Where the loss already tells right from wrong conditions, the advice is patience."""
    (late,), (never,) = (diagnose(Numbers(follows=0.0, condition_gap=gap)) for gap in (1.5, 1.01))
    assert "train longer: pictures follow later" in late.advice
    assert "1.01 x" in never.says


def test_a_plateau_needs_points_and_stillness() -> None:
    """A falling loss is none, nor are a few points."""
    assert plateau(STILL)
    assert not plateau(FALLING)
    assert not plateau(STILL[:5])


PAGE = DOCS / "fidelity.md"


def test_the_options_are_documented() -> None:
    """docs/fidelity.md has every argument and option of `python -m trainer evaluate`, and none that does not exist."""
    command: Any = get_command(cli.app)
    documented = {tuple(ticked(names)): default for names, default, _ in tables(section(PAGE, "## The command"))[0]}
    assert documented == {_names(p): _default(p) for p in command.commands["evaluate"].params}


def test_the_arms_and_findings_are_documented() -> None:
    """docs/fidelity.md has every arm, and every finding that a diagnosis can make."""
    arms = [ticked(row[0])[0] for row in tables(section(PAGE, "## What it is held against"))[0]]
    assert arms == list(ARMS)
    findings = {ticked(row[0])[0] for row in tables(section(PAGE, "## What it means"))[0]}
    assert findings == {rule.name for group in CAUSES for rule in group} | {WELL.name}
