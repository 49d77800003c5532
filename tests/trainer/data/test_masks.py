"""A column of masks says what counts: it goes the way of its picture, and what is no mask of it is refused early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from support.noise import edges, picture, png
from support.trainer_models import save_base

from trainer.data.loader import Loader
from trainer.data.open import open_split
from trainer.errors import DataError
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Batch

SIZE = (64, 64)


def a_mask(number: int) -> np.ndarray:
    """(64, 64): white from the number-th latent's column on, of eight."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 8 * number :] = 255
    return mask


def save(folder: Path, parquet: bool, masks: list[np.ndarray | None]) -> Path:
    """Rows whose masks are in the column `face`."""

    def stored(pixels: np.ndarray | None) -> dict[str, Any] | None:
        return None if pixels is None else {"bytes": png(pixels), "path": None}

    numbers = range(len(masks))
    columns = {
        "image": [stored(picture(number, SIZE)) for number in numbers],
        "text": [f"row {number}" for number in numbers],
        "conditioning_image": [stored(edges(number, SIZE)) for number in numbers],
        "face": [stored(mask) for mask in masks],
    }
    rows = datasets.Dataset.from_dict(columns)
    for name in ("image", "conditioning_image", "face"):
        rows = rows.cast_column(name, datasets.Image())
    if parquet:
        folder.mkdir()
        rows.to_parquet(folder / "train.parquet")
    else:
        datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(Model(base=str(save_base(tmp_path_factory.mktemp("base") / "sd15"))))


def first_batch(dataset: Path, kept: Path, base: Base, cached: bool = False, **data: Any) -> Batch:
    usual = {"path": str(dataset), "resolution": 64, "num_workers": 0, "kind": "canny", "mask_column": "face"}
    tables = {
        "data": usual | data,
        "cache": {"dir": str(kept), "latents": cached, "text": False},
        "train": {"batch": 4, "micro_batch": 4},
    }
    split = open_split(parse_recipe(tables), "train", training=True).with_caches(base)
    split.fill(ONE_PROCESS, lambda *_: None)
    return next(iter(Loader(split, 4)))


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("mirrored", [0.0, 1.0])
@pytest.mark.parametrize("cached", [False, True])
def test_a_mask_goes_the_way_of_its_picture(
    parquet: bool, mirrored: float, cached: bool, base: Base, tmp_path: Path
) -> None:
    """From Arrow and Parquet, cached or not: white latents count 1, black ones 0, mirrored with the picture."""
    dataset = save(tmp_path / "ds", parquet, [a_mask(number) for number in range(4)])
    batch = first_batch(dataset, tmp_path / "kept", base, cached, hflip=mirrored)
    assert batch.mask is not None
    assert batch.mask.shape == (4, 1, 8, 8)
    for caption_row, mask in zip(batch.keys, batch.mask[:, 0]):
        number = int(caption_row.rpartition(":")[2])
        expected = torch.zeros(8, 8)
        expected[:, number:] = 1
        assert mask.equal(expected.flip(1) if mirrored else expected)


def test_without_a_column_everything_counts(base: Base, tmp_path: Path) -> None:
    """The default: a batch has no mask."""
    dataset = save(tmp_path / "ds", False, [a_mask(number) for number in range(4)])
    assert first_batch(dataset, tmp_path / "kept", base, mask_column="").mask is None


@pytest.mark.parametrize("parquet", [False, True])
def test_a_mask_of_another_size_is_refused(parquet: bool, base: Base, tmp_path: Path) -> None:
    """Before anything is encoded, with the row and both sizes."""
    dataset = save(tmp_path / "ds", parquet, [a_mask(0), a_mask(1), a_mask(2)[:32], a_mask(3)])
    with pytest.raises(DataError, match=r"train:2: its mask has 64 x 32 px, the picture 64 x 64"):
        first_batch(dataset, tmp_path / "kept", base)


@pytest.mark.parametrize("parquet", [False, True])
def test_a_row_without_its_mask_is_refused(parquet: bool, base: Base, tmp_path: Path) -> None:
    """A null in the column: which row it is."""
    dataset = save(tmp_path / "ds", parquet, [a_mask(0), None, a_mask(2), a_mask(3)])
    with pytest.raises(DataError, match=r"train:1: .*face"):
        first_batch(dataset, tmp_path / "kept", base)


@pytest.mark.parametrize(("name", "said"), [("faces", "the columns of pictures .* face"), ("text", "are image")])
def test_a_column_that_holds_no_pictures_is_refused(name: str, said: str, base: Base, tmp_path: Path) -> None:
    """The key, its value, and the columns that there are."""
    dataset = save(tmp_path / "ds", False, [a_mask(number) for number in range(4)])
    with pytest.raises(DataError, match=rf"data\.mask_column = '{name}', but .*{said}"):
        first_batch(dataset, tmp_path / "kept", base, mask_column=name)


def test_folders_have_no_further_columns(tmp_path: Path, base: Base) -> None:
    """Of two folders of pictures the key is refused."""
    for name, pixels in (("image", picture(0, SIZE)), ("canny", edges(0, SIZE))):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        (tmp_path / "pairs" / name / "0.png").write_bytes(png(pixels))
    (tmp_path / "pairs" / "image" / "0.txt").write_text("a row")
    with pytest.raises(DataError, match=r"data\.mask_column = 'face', but .* no further columns"):
        first_batch(tmp_path / "pairs", tmp_path / "kept", base)
