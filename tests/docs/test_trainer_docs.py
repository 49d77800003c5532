"""docs/trainer.md tells the truth: commands, options, metrics, public names, errors."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from support.docs import DOCS, FENCES, default_of, names_of, section, tables, ticked
from typer.main import get_command

import trainer
from condprep.errors import CondprepError
from trainer import errors
from trainer.cli.main import app
from trainer.training.condition_gap import BANDS, HeldOutLosses
from trainer.training.train import TrainResult

PAGE = DOCS / "trainer.md"
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def test_sampling_is_documented() -> None:
    """`python -m trainer sample` has its options with their defaults, and none that does not exist."""
    rows = tables(section(PAGE, "## Sampling"))[0]
    documented = {tuple(ticked(names)): default for names, default, _ in rows}
    assert documented == {names_of(parameter): default_of(parameter) for parameter in COMMANDS["sample"].params}


def test_the_page_is_documented() -> None:
    """`python -m trainer app` has its options with their defaults, and none that does not exist."""
    rows = tables(section(PAGE, "## The page"))[0]
    documented = {tuple(ticked(names)): default for names, default, _ in rows}
    assert documented == {names_of(parameter): default_of(parameter) for parameter in COMMANDS["app"].params}


def test_exporting_is_documented() -> None:
    """`python -m trainer export` has its options with their defaults, and none that does not exist."""
    rows = tables(section(DOCS / "export.md", "# Export for other programs"))[0]
    documented = {tuple(ticked(names)): default for names, default, _ in rows}
    assert documented == {names_of(parameter): default_of(parameter) for parameter in COMMANDS["export"].params}


def test_forking_is_documented() -> None:
    """`python -m trainer fork` has its options with their defaults, and none that does not exist."""
    rows = tables(section(PAGE, "## Forking a run"))[0]
    documented = {tuple(ticked(names)): default for names, default, _ in rows}
    assert documented == {names_of(parameter): default_of(parameter) for parameter in COMMANDS["fork"].params}


def test_every_command_line_of_the_trainer_is_understood() -> None:
    """Each `python -m trainer ...` line of every page names a verb, or a recipe, and options that exist."""
    lines = [line for fence in FENCES if fence.language in ("sh", "bash") for line in fence.text.splitlines()]
    found = [line.split("-m trainer ", 1)[1] for line in lines if "-m trainer " in line]
    assert len(found) >= 4
    for line in found:
        words = re.findall(r'"[^"]*"|\S+', line.partition(" #")[0])
        name = words.pop(0) if words[0] in COMMANDS else "train"
        COMMANDS[name].make_context("trainer", words)


def test_the_result_is_documented() -> None:
    """What --json prints."""
    rows = tables(section(PAGE, "## What a run says"))[0]
    assert [ticked(row[0])[0] for row in rows] == [field.name for field in fields(TrainResult)]


def test_the_metrics_are_documented() -> None:
    """Those of a line of training and of a validation, bands included."""
    rows = tables(section(PAGE, "## What is measured"))[0]
    documented = {ticked(row[0])[0] for row in rows}
    training = {"loss", "grad_norm", "lr", "epoch", "pictures_per_second", "data_wait"}
    validation = {
        name for name in HeldOutLosses((1.0,) * BANDS, (1.0,) * BANDS).metrics() if not re.search(r"band[1-9]", name)
    }
    assert documented == training | validation


def test_the_public_names_are_documented() -> None:
    """What `trainer` exports, in one table, with arguments that exist."""
    rows = tables(section(PAGE, "## The result"))[0]
    assert {ticked(row[0])[0] for row in rows} == set(trainer.__all__)
    for name, use in ((ticked(row[0])[0], ticked(row[1])[0]) for row in rows):
        known = inspect.signature(getattr(trainer, name)).parameters
        given = re.findall(r"(?:^|, )(\w+)=", use.partition("(")[2])
        assert set(given) <= set(known), name


def test_the_errors_are_documented() -> None:
    """The whole tree of trainer/errors.py."""
    own = [c for c in vars(errors).values() if inspect.isclass(c) and c.__module__ == "trainer.errors"]
    assert all(issubclass(error, CondprepError) for error in own)
    assert all(f"`{error.__name__}`" in PAGE.read_text() for error in own)
