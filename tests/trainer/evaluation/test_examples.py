"""The rows of an evaluation: each with another one, and annotated as their dataset was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.painters import read_some
from support.trainer_models import build_dataset, save_pictures

import condprep
from trainer.errors import DataError
from trainer.evaluation.examples import Example, partners
from trainer.evaluation.reannotator import reannotator


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset alone: neither a base nor a ControlNet."""
    folder = tmp_path_factory.mktemp("rows")
    build_dataset(folder / "ds", rows=48)
    return folder


@pytest.fixture(scope="module")
def rows(place: Path) -> list[Example]:
    return read_some(place)


def test_partners_have_one_size_and_are_others(rows: list[Example]) -> None:
    """Every row gets another one of its size; a row without one is left out."""
    wide = replace(rows[0], condition=np.zeros((64, 128, 3), np.uint8))
    other = partners([*rows, wide])
    assert sorted(other) == sorted(other.values()) == list(range(len(rows)))
    assert all(a != b for a, b in other.items())


def test_rows_are_annotated_as_their_dataset_was(place: Path, rows: list[Example]) -> None:
    """The dataset's annotator with its parameters, asked again, gives the stored maps."""
    found = reannotator(str(place / "ds"), "conditioning_image", None, "cpu")
    made = found([row.original for row in rows], [row.key for row in rows])
    assert found.label == found.kind == "canny"
    assert all(np.array_equal(one.pixels, row.condition[..., 0]) for one, row in zip(made, rows))


def test_random_thresholds_are_those_of_the_row(tmp_path: Path) -> None:
    """A variant that draws by the row's key draws the same again, so the real pictures score 1."""
    condprep.build(save_pictures(tmp_path / "raw"), tmp_path / "ds", "canny:random", resolution=64, captions="list")
    some = read_some(tmp_path, 9)
    found = reannotator(str(tmp_path / "ds"), "conditioning_image", None, "cpu")
    made = found([row.original for row in some], [row.key for row in some])
    assert all(np.array_equal(one.pixels, row.condition[..., 0]) for one, row in zip(made, some))


def test_a_dataset_that_does_not_say_who_annotated_it(tmp_path: Path) -> None:
    """The error names the remedy, and the remedy works."""
    with pytest.raises(DataError, match="--annotator"):
        reannotator(str(tmp_path), "conditioning_image", None, "cpu")
    assert reannotator(str(tmp_path), "conditioning_image", ("canny", {"low": 50}), "cpu").label == "canny"
