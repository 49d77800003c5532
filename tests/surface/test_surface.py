"""What users build on is what it was: each part of the surface against a list that is renewed on purpose only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import surface
from support.surface_runs import JSON_RUNS

KEPT = json.loads(surface.LIST.read_text(encoding="utf-8"))


def test_the_public_names_are_what_they_were() -> None:
    """`condprep.__all__` and `trainer.__all__` lose no name and get none unnoticed."""
    assert surface.names() == KEPT["names"]


def test_public_functions_take_what_they_took() -> None:
    """Every parameter of a public function, class and method: its name, place and default."""
    assert surface.signatures() == KEPT["signatures"]


def test_results_have_the_fields_that_they_had() -> None:
    """Every field, to any depth, of what public functions return, with its type; of a recipe every key and default."""
    assert surface.results() == KEPT["results"]


def test_the_command_lines_understand_what_they_understood() -> None:
    """Every verb and option of both command lines: spellings, type, choices, limits, default and variable."""
    assert surface.options() == KEPT["options"]


def test_every_verb_with_json_is_listed() -> None:
    """No verb gets `--json` without a run that records its keys."""
    verbs = {verb for verb, options in surface.options().items() if "--json" in options}
    listed = {run for run in JSON_RUNS if run in surface.options()}
    assert verbs == listed
    assert KEPT["json"].keys() == JSON_RUNS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("run", JSON_RUNS)
def test_json_has_the_keys_that_it_had(run: str, tmp_path: Path) -> None:
    """`--json` of a real run: every key and the JSON type of its value."""
    assert surface.json_keys(run, tmp_path) == KEPT["json"][run]
