"""Evaluations have every arm, are repeatable, follow a protocol, and leave a report that can be read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.docs import DOCS, default_of, names_of, section, tables, ticked
from support.painters import named, train_place
from support.pictures import size_of
from support.trainer_models import build_dataset, save_pictures
from typer.main import get_command

import condprep
from condprep.errors import UsageError
from trainer.cli import main as cli
from trainer.errors import DataError, ModelError
from trainer.evaluation.diagnosis import CAUSES, WELL
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.examples import Example
from trainer.evaluation.protocols import PROTOCOLS
from trainer.evaluation.report import ranking, write_report
from trainer.evaluation.result import Fidelity
from trainer.evaluation.scores import MEASURES
from trainer.evaluation.trial import ARMS, Arm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_place(tmp_path_factory.mktemp("fidelity"))


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


@pytest.mark.slow
def test_an_evaluation_is_repeatable(place: Path, found: Fidelity) -> None:
    """The same seed gives the same scores; another gives other pictures."""
    again = evaluate(place / "output", rows=4, against=place / "output" / "raw", pictures_per_prompt=2, batch=3)
    other = evaluate(place / "output", rows=4, pictures_per_prompt=2, seed=1)
    first, second, third = ([arm.pictures for arm in one.arms.values()] for one in (found, again, other))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for x, y in zip(first, second) for a, b in zip(x, y))
    assert not np.array_equal(first[0][0], third[0][0])


@pytest.mark.slow
def test_the_python_of_the_page_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/fidelity.md shows Python that evaluates and writes a report, in the folder of a run."""
    text = (Path(__file__).parents[3] / "docs" / "fidelity.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```text\n(from .*?)```", text, re.DOTALL)
    monkeypatch.chdir(place)
    exec(compile(snippet, "docs/fidelity.md", "exec"), {"__name__": "snippet"})
    assert "lost in the VAE" in capsys.readouterr().out
    assert (place / "report" / "index.html").exists()


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
        assert size_of(tmp_path / "report" / name)[0] > 1000
    page = (tmp_path / "report" / "index.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert all(arm in page for arm in ARMS)


@pytest.mark.parametrize(("measure", "worst"), [("f1_0px", "a"), ("depth_rmse", "b")])
def test_the_worst_rows_come_first(measure: str, worst: str) -> None:
    """By the leading measure, whichever way it is better; a row without a value is neither among the worst nor the best."""
    keys = {"a": 0.1, "b": 0.9, "c": 0.5, "none": math.nan}
    some = [Example(key, "", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)) for key in keys]
    arm = Arm("controlnet", some, [], [], [{measure: value} for value in keys.values()])
    order = ranking(SimpleNamespace(measure=measure, arms={"controlnet": arm}))  # type: ignore[arg-type]
    assert [some[number].key for number in order] == sorted("abc", key="acb".index, reverse=worst == "b")


def test_captions_cannot_write_the_page(found: Fidelity, tmp_path: Path) -> None:
    """What comes from the dataset is text, not markup."""
    evil = replace(found, settings={**found.settings, "dataset": "<img src=x onerror=alert(1)>"})
    write_report(evil, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page


def test_a_report_leaves_other_things_alone(found: Fidelity, tmp_path: Path) -> None:
    """A folder that holds no report is refused; one that does is written again."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("")
    with pytest.raises(UsageError, match="holds no report"):
        write_report(found, tmp_path / "mine")
    write_report(found, tmp_path / "report")
    write_report(found, tmp_path / "report")


def test_a_protocol_sets_what_itnames_of(place: Path) -> None:
    """ControlNet++: its settings, annotators and measures, as its evaluation scripts have them."""
    named = PROTOCOLS["controlnet-plus-plus"]
    assert (named.resolution, named.steps, named.cfg, named.pictures) == (512, 20, 7.5, 4)
    assert named.negative_prompt == "worst quality, low quality"
    assert {kind: (one.annotator, one.remakes) for kind, one in named.annotators.items()} == {
        "canny": ("canny", True),
        "softedge": ("hed", True),
        "depth": ("depth:Intel/dpt-large", False),
    }
    assert named.measures == {"canny": "f1_0px", "softedge": "ms_ssim", "lineart": "ms_ssim", "depth": "depth_rmse"}
    assert all(measure in MEASURES[kind] for kind, measure in named.measures.items())
    with pytest.raises(ModelError, match="there is controlnet-plus-plus"):
        evaluate(place / "output", protocol_name="their-paper")


@pytest.mark.slow
def test_an_evaluation_by_protocol(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions are made by the protocol's annotator; what is asked for goes before it; the rest is in the settings."""
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


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    """The message names what is missing."""
    with pytest.raises(ModelError, match="holds no result"):
        evaluate(tmp_path)


def test_a_dataset_that_is_not_there_names_no_annotator(place: Path) -> None:
    """`evaluate --dataset nope` says that there is no such dataset, and nothing of annotators."""
    with pytest.raises(DataError, match=r"^--dataset 'nope': there is no file or folder 'nope'$"):
        evaluate(place / "output", "nope")


PAGE = DOCS / "fidelity.md"


def test_the_options_are_documented() -> None:
    """docs/fidelity.md has every argument and option of `python -m trainer evaluate`, and none that does not exist."""
    command: Any = get_command(cli.app)
    documented = {tuple(ticked(names)): default for names, default, _ in tables(section(PAGE, "## The command"))[0]}
    assert documented == {names_of(p): default_of(p) for p in command.commands["evaluate"].params}


def test_the_arms_and_findings_are_documented() -> None:
    """docs/fidelity.md has every arm, and every finding that a diagnosis can make."""
    arms = [ticked(row[0])[0] for row in tables(section(PAGE, "## What it is held against"))[0]]
    assert arms == list(ARMS)
    findings = {ticked(row[0])[0] for row in tables(section(PAGE, "## What it means"))[0]}
    assert findings == {rule.name for group in CAUSES for rule in group} | {WELL.name}
