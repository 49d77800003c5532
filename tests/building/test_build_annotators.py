"""The build and its annotators: what fails in a batch, runs out of memory, finds nothing or breaks its promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from PIL import Image
from support.fragile import Fragile
from support.thorough import slow_ones

from condprep import Maps, build
from condprep.annotators.batches import fitting_batch
from condprep.errors import ProgramFault, UsageError

SMALL = {"resolution": 128, "shard_rows": 5}


def test_out_of_memory_halves_the_batch_and_loses_nothing(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """Batches that do not fit are halved, a picture on which the annotator fails is a reject, the others are rows."""
    Image.new("RGB", (200, 200)).save(raw / "black.png")
    result = build(raw, tmp_path / "ds", ["fragile", "canny"], resolution=128)
    assert result.rows == {"train": 12}
    assert result.rejects == {"annotator-failed": 1}
    assert fragile.batches[0] == 13  # small pictures: more than batch_size of them fit in the same memory
    assert sum(size for size in fragile.batches if size <= 3) >= 13
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    for row in rows:
        grey = np.asarray(row["image"]).astype(float).mean()
        assert row["brightness"] == pytest.approx(grey, abs=1)
        assert np.asarray(row["fragile"]).mean() == pytest.approx(grey, abs=1)


def test_pictures_in_which_nothing_is_found_are_flagged_or_dropped(raw: Path, tmp_path: Path) -> None:
    """A map without a single edge is flagged in the column `empty`; --drop-empty makes it a reject."""
    Image.new("RGB", (200, 200), "blue").save(raw / "blue.png")
    build(raw, tmp_path / "flagged", "canny", **SMALL)
    rows = load_from_disk(str(tmp_path / "flagged"))["train"]
    assert {row["source"] for row in rows if row["empty"]} == {"blue.png"}
    result = build(raw, tmp_path / "dropped", "canny", drop_empty=True, **SMALL)
    assert (result.rows, result.rejects) == ({"train": 12}, {"empty-map": 1})


def test_the_batch_is_halved_until_it_fits(fragile: Fragile) -> None:
    """The probe before a build ends at the largest half of a half that does not run out of memory."""
    fragile.limit, fragile.darkest = 5, 0
    assert fitting_batch([fragile], 32, side=8) == 4
    assert fragile.batches == [32, 16, 8, 4]
    assert fitting_batch([], 32) == 32


def test_batches_of_mixed_shapes_come_out_in_order(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """With buckets, whose batches finish out of order, rows keep the order of the inputs and their own maps."""
    result = build(raw, tmp_path / "ds", "fragile", fit="bucket", resolution=256, max_upscale=4)
    assert result.rows == {"train": 12}
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    assert rows["source"][:] == sorted(rows["source"][:])
    assert len({row["image"].size for row in rows}) > 1
    for row in rows:
        grey = np.asarray(row["image"].convert("RGB")).astype(float).mean(2)
        assert np.abs(np.asarray(row["conditioning_image"]) - grey).mean() < 3


@pytest.mark.parametrize(
    "stored", [{}, {"fit": "pad"}, *slow_ones([{"image_format": "webp"}, {"image_format": "png"}])]
)
def test_a_network_looks_at_the_stored_picture(
    raw: Path, tmp_path: Path, fragile: Fragile, stored: dict[str, Any]
) -> None:
    """A network's map is that of the pixels that a reader gets, to the byte; a filter's is the same beside it as alone."""
    build(raw, tmp_path / "ds", ["fragile", "canny"], resolution=128, **stored)
    build(raw, tmp_path / "alone", "canny", resolution=128, **stored)
    rows, alone = (load_from_disk(str(tmp_path / name))["train"] for name in ("ds", "alone"))
    for row, only in zip(rows, alone, strict=True):
        seen = np.array(row["image"].convert("RGB"))
        grey = torch.from_numpy(seen).float().mean(2).byte().numpy()  # as `Fragile` does
        found = np.asarray(row["fragile"])
        inside = np.outer(found.any(1), found.any(0))  # and around it what --fit pad added
        assert inside.all() or "fit" in stored
        assert (found == grey)[inside].all()
        np.testing.assert_array_equal(np.asarray(row["canny"]), np.asarray(only["conditioning_image"]))


def test_an_annotator_that_always_fails_stops_the_build(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """One picture alone is too much for the device: that is no picture's fault. The build stops and can be resumed."""
    fragile.limit = 0
    with pytest.raises(ProgramFault, match=r"fragile cannot go on: OutOfMemoryError: CUDA out of memory.*goes on"):
        build(raw, tmp_path / "ds", "fragile", resolution=128)
    assert not (tmp_path / "ds" / "train").exists()
    fragile.limit = 8
    assert build(raw, tmp_path / "ds", "fragile", resolution=128).rows == {"train": 12}


def test_an_annotator_that_breaks_its_promise_is_named(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """A map of another size than the picture never reaches a dataset."""
    fragile.__class__ = type("Wrong", (Fragile,), {"__call__": lambda self, rgb, keys: Maps(rgb[..., :-1, :-1])})
    with pytest.raises(UsageError, match=r"annotator 'fragile' returned maps .*127, 127"):
        build(raw, tmp_path / "ds", "fragile", resolution=128)
