"""`python -m bench train` and `python -m bench cache`, at the tests' own size: every figure of a row is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.measured import run_by
from support.warm import Warm

from bench.bases import make_base
from bench.cache import rates
from bench.gpu import listed
from bench.gpu.parts import PARTS
from bench.train import arithmetic, chosen, each, make_dataset, options, table, ways
from trainer.data import cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a dataset."""
    made = tmp_path_factory.mktemp("bench")
    make_base(made / "base", "least")
    make_dataset(made / "ds", chosen(options().parse_args(["--size", "least"])))
    return made


@pytest.mark.slow
def test_a_way_to_train_is_a_row(folder: Path, warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed, its share of the device's arithmetic, peak and start; no waits are counted where there is no GPU."""
    arguments = "--size least --updates 7 --workers 1 --once --precision bf16 --only autocast"
    chosen_ones = options().parse_args(arguments.split())
    most = arithmetic(folder, chosen_ones, "cpu")
    monkeypatch.setattr("bench.measured.subprocess.run", run_by(warm, tmp_path))
    (row,) = each(ways(chosen_ones, folder, on_gpu=False), chosen_ones, folder, most)
    assert row["run"] == "autocast"
    assert row["arithmetic"] * most == pytest.approx(row["pictures_per_second"])
    assert row["waits"] is None
    assert min(row["arithmetic"], row["peak_gb"], row["start"]) > 0
    assert table([row]).row_count == 1


def test_the_usual_rows_are_those_that_a_machine_can_do(folder: Path) -> None:
    """Compiling is minutes of a CPU: only by name. What the trainer leaves off is measured only by name."""
    usual = options().parse_args(["--size", "least"])
    on_cpu, on_gpu = (list(ways(usual, folder, on_gpu=on_gpu)) for on_gpu in (False, True))
    assert on_cpu == ["cached", "autocast", "no cache", "average"]
    assert on_gpu == ["cached", "autocast", "no cache", "compiled", "average"]
    named = options().parse_args(["--size", "least", "--only", "tf32", "cached"])
    assert list(ways(named, folder, on_gpu=False)) == ["tf32", "cached"]


def test_a_cache_is_filled_and_its_rate_is_held_against_the_vae(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of the bare VAE, of the cache and of captions; the cache is there."""
    monkeypatch.setattr(cache, "ENCODED_PIXELS", 3 * 64 * 64)
    found = rates(folder, 64, 1, "fp32", "cpu")
    assert found.keys() == {"bare", "cache", "captions"}
    assert min(found.values()) > 0
    assert list((folder / "cache").rglob("latents-*.npy"))


def test_the_parts_of_a_gpu_can_be_listed() -> None:
    """Each with the seconds that it may take; without those that hang they fit into a quarter of an hour."""
    lines = listed().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [*PARTS]
    assert sum(part.least for part in PARTS.values()) < 15 * 60
