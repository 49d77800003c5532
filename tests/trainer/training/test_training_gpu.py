"""Training on a device: the CPU's losses, half precision, resumes, and how many rows fit when memory is really short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.device import DEVICE, ON_CUDA, memory, on_device, peak
from support.trainer_models import save_pictures
from support.trainer_runs import lines, make_place, make_recipe, weights

import condprep
from trainer.errors import MachineError
from trainer.training.train import train

pytestmark = on_device


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base and a dataset of 24 rows."""
    return make_place(tmp_path_factory.mktemp("run"), rows=24)


def losses(place: Path, out: Path, device: str, **tables: dict[str, Any]) -> list[float]:
    """Of six updates, one by one."""
    train_table = {"steps": 6, "device": device} | tables.pop("train", {})
    train(make_recipe(place, out, train=train_table, log={"every": 1, "tracker": "none"}, **tables))
    return [line["loss"] for line in lines(out) if "loss" in line]


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "not cached"])
def test_updates_are_those_of_the_cpu(place: Path, tmp_path: Path, cached: bool) -> None:
    """Six updates in float32: every loss is within 0.5 % of the CPU's, with caches and without."""
    cache = {"latents": cached, "text": cached, "dir": str(tmp_path / "cache")}
    expected = losses(place, tmp_path / "cpu", "cpu", cache={**cache, "dir": str(tmp_path / "other cache")})
    found = losses(place, tmp_path / "device", DEVICE, cache=cache)
    assert len(found) == 6
    assert found == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_the_same(place: Path, tmp_path: Path, precision: str) -> None:
    """Every loss of six updates is within 3 % of float32's."""
    if precision == "fp16" and not ON_CUDA:
        pytest.skip("the trainer refuses fp16 on a CPU")
    expected = losses(place, tmp_path / "fp32", DEVICE)
    assert losses(place, tmp_path / precision, DEVICE, train={"precision": precision}) == pytest.approx(
        expected, rel=0.03
    )


@pytest.mark.parametrize("table", [{"gradient_checkpointing": True}, {"micro_batch": 4}], ids=str)
def test_what_saves_memory_changes_no_loss(place: Path, tmp_path: Path, table: dict[str, Any]) -> None:
    """Checkpointing, and other sizes of a forward pass, give the losses of a plain run within 0.5 %."""
    expected = losses(place, tmp_path / "plain", DEVICE)
    assert losses(place, tmp_path / "other", DEVICE, train=table) == pytest.approx(expected, rel=5e-3)


def test_an_average_on_the_cpu_is_the_same(place: Path, tmp_path: Path) -> None:
    """Of six updates with validation: the averaged weights are those of an average on the device, within rounding."""
    for name in ("auto", "cpu"):
        losses(place, tmp_path / name, DEVICE, ema={"decay": 0.9, "device": name}, eval={"every": 6, "samples": 1})
    mine, expected = (weights(tmp_path / name / "ema") for name in ("cpu", "auto"))
    assert max((mine[name] - expected[name]).abs().max().item() for name in mine) < 1e-4


def test_three_and_three_are_six(place: Path, tmp_path: Path) -> None:
    """A run that is stopped after three updates and resumed has the losses of one that is not, within 0.5 %."""
    expected = losses(place, tmp_path / "whole", DEVICE)
    losses(place, tmp_path / "parts", DEVICE, train={"steps": 3})
    assert losses(place, tmp_path / "parts", DEVICE) == pytest.approx(expected, rel=5e-3)


def test_as_many_rows_as_fit(place: Path, tmp_path: Path) -> None:
    """Of a device that has room for more than four rows of 256 px and less than eight, "auto" takes four, and eight are refused."""
    condprep.build(save_pictures(place / "pictures", 16, (256, 256)), place / "large", "canny", resolution=256)
    data = {"path": str(place / "large"), "resolution": 256, "num_workers": 1, "validation": ""}

    def run(micro_batch: int | str, said: list[str], name: str = "") -> None:
        table = {"steps": 1, "batch": 16, "micro_batch": micro_batch, "device": DEVICE}
        train(make_recipe(place, tmp_path / f"{micro_batch}{name}", data=data, train=table), say=said.append)

    run(1, [])  # fills the caches
    four, eight = (peak(lambda: run(rows, [])) for rows in (4, 8))  # noqa: B023
    limit = four * 5 // 4
    assert limit < eight
    said: list[str] = []
    with memory(limit):
        run("auto", said)
        with pytest.raises(MachineError, match=r"train\.micro_batch = 8 does not fit into memory; 4 does"):
            run(8, [], "again")
    assert "train.micro_batch = 4 fits into memory" in " ".join(said)
