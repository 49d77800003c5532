"""--network-memory: what a network may take for pictures is in the plan, and decides what becomes a reject, whoever builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.built_in import among_built_in
from support.datasets import tree
from support.hungry import A_PIXEL, Hungry

from condprep import add_columns, build, finish
from condprep.annotators import memory
from condprep.building import device_stage, load_annotators
from condprep.engines import local, processes
from condprep.errors import DatasetError, ProgramFault, UsageError
from condprep.runtime.progress import Progress

LARGE = 320 * 256 * A_PIXEL  # bytes for one of the large pictures
LIMIT = LARGE - 1
REASON = "hungry needs 0.08 GB for a picture of 320 x 256 px > limit 0.08 GB"


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> Hungry:
    """The annotator `hungry`, among the built-in ones."""
    return among_built_in(monkeypatch, Hungry())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small pictures and two large ones."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(8):
        size = (320, 256) if number in {2, 5} else (64, 128)
        Image.new("RGB", size, (40 + number, 90, 20 * number)).save(folder / f"{number}.png")
    return folder


def rejects(dataset: Path) -> list[dict[str, Any]]:
    lines = (dataset / ".condprep" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def of(mixed: Path, out: Path, **how: Any) -> dict[str, bytes]:
    """The dataset's files."""
    build(mixed, out, "hungry", fit="keep", shard_rows=3, **{"network_memory": LIMIT} | how)
    return tree(out)


def test_the_same_pictures_are_rejects_whoever_builds(
    mixed: Path, hungry: Hungry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two large pictures are rejects by name that no network saw; the same bytes in parts, with other workers and after a stop."""
    whole = of(mixed, tmp_path / "whole")
    assert [(one["source"], one["code"]) for one in rejects(tmp_path / "whole")] == [
        ("2.png", "too-large-for-network"),
        ("5.png", "too-large-for-network"),
    ]
    assert all(one["reason"].startswith(REASON) for one in rejects(tmp_path / "whole"))
    assert {shape[2:] for shape in hungry.seen} == {(128, 64)}
    assert of(mixed, tmp_path / "workers", workers=1) == whole

    for part in ("0/2", "1/2"):
        build(mixed, tmp_path / "parts", "hungry", fit="keep", shard_rows=3, network_memory=LIMIT, part=part)
    finish(tmp_path / "parts")
    assert tree(tmp_path / "parts") == whole

    def one_after_the_other(job: Any, shards: Any, *, devices: Any, workers: int, progress: Any) -> Any:
        return local.build_shards(job(devices[1], progress, len(devices)), shards, workers)

    monkeypatch.setattr(processes, "build_shards", one_after_the_other)
    assert of(mixed, tmp_path / "processes", devices="cpu,cpu") == whole

    def stop(state: Progress) -> None:
        if state.stage == "build" and state.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of(mixed, tmp_path / "stopped", progress=stop)
    monkeypatch.setattr(memory, "usable_memory", lambda: 10 * LARGE)  # another machine goes on
    assert of(mixed, tmp_path / "stopped") == whole


def test_the_default_is_half_of_the_device_s_memory_when_it_was_begun(
    mixed: Path, hungry: Hungry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the plan: a machine that has more makes the same rejects, and one that has less stops and keeps no reject."""
    monkeypatch.setattr(memory, "usable_memory", lambda: 2 * LIMIT)

    def stop(state: Progress) -> None:
        if state.stage == "build":
            raise KeyboardInterrupt

    for name in ("more", "less"):
        with pytest.raises(KeyboardInterrupt):
            of(mixed, tmp_path / name, network_memory=None, progress=stop)
        plan = json.loads((tmp_path / name / ".condprep" / "plan.json").read_text(encoding="utf-8"))
        assert plan["config"]["network_memory"] == LIMIT
        assert plan["config"]["batch_size"] == 1  # a picture of 512 x 512 px is more than it
    monkeypatch.setattr(memory, "usable_memory", lambda: 20 * LARGE)
    of(mixed, tmp_path / "more", network_memory=None)
    assert len(rejects(tmp_path / "more")) == 2
    monkeypatch.setattr(memory, "usable_memory", lambda: 64 * 128 * A_PIXEL - 1)
    with pytest.raises(ProgramFault, match=r"hungry needs 0.02 GB for 2 pictures of 64 x 128 px"):
        of(mixed, tmp_path / "less", network_memory=None)
    monkeypatch.setattr(memory, "usable_memory", lambda: 2 * LIMIT)
    of(mixed, tmp_path / "less", network_memory=None)
    assert tree(tmp_path / "less") == tree(tmp_path / "more")


def test_another_limit_is_another_dataset(mixed: Path, hungry: Hungry, tmp_path: Path) -> None:
    """Who goes on must say the same; with more there are no rejects. Sizes are read as people write them."""
    of(mixed, tmp_path / "ds")
    with pytest.raises(DatasetError, match=r"requested.options.network_memory: 81919999 there, 81920000 now"):
        of(mixed, tmp_path / "ds", network_memory=LARGE)
    of(mixed, tmp_path / "ds", network_memory="0.2 GB", overwrite=True)
    assert not rejects(tmp_path / "ds")
    with pytest.raises(UsageError, match=r"network_memory = 'much': give bytes, .* as 12GB"):
        of(mixed, tmp_path / "no", network_memory="much")
    with pytest.raises(UsageError, match=r"network_memory = 5: give bytes"):
        of(mixed, tmp_path / "no", network_memory=5)


def test_rows_that_are_there_stay_without_a_map(mixed: Path, hungry: Hungry, tmp_path: Path) -> None:
    """Columns that are added: a picture that the network cannot hold has none, and its row is kept."""
    build(mixed, tmp_path / "ds", "canny", fit="keep")
    result = add_columns(tmp_path / "ds", "hungry", network_memory=LIMIT)
    assert result.without_map == {"hungry: too-large-for-network": 2}
    assert result.rows == {"train": 8}


def test_a_process_has_its_share_of_the_cpu_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes on a machine none takes what the others need."""
    monkeypatch.setattr(memory, "usable_memory", lambda: 3 * LARGE)
    for sharing, fits in ((1, True), (3, True), (4, False)):
        stage = device_stage.DeviceStage({"hungry": Hungry()}, 4, memory=LARGE, sharing=sharing)
        allowance = stage.networks["hungry"]._allowance
        if fits:
            assert allowance.together(3, 256, 320) == 1
        else:
            with pytest.raises(ProgramFault, match="fewer processes"):
                allowance.together(3, 256, 320)


def test_a_batch_of_the_plan_fits(hungry: Hungry) -> None:
    """The most pictures of 512 x 512 px, not more than the annotator wants, and one at least."""
    options = load_annotators.BuildOptions(annotators=("hungry",))
    need = 512 * 512 * A_PIXEL
    for limit, size in ((100 * need, 8), (8 * need, 8), (5 * need + 1, 5), (need // 2, 1)):
        assert load_annotators.batch_size({"hungry": hungry}, options, limit) == size
