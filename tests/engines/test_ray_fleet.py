"""Shards in the hands of actors, without a cluster: who dies, who differs, and what is given up. `test_ray.py` has a real one."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.fake_ray import FakeRay, RayError, Report

from condprep import build
from condprep.dataset.shards import Counts
from condprep.engines import ray_connect
from condprep.engines.ray_connect import Size, connected, size_of_actors
from condprep.engines.ray_fleet import Fleet
from condprep.engines.ray_node import Look
from condprep.errors import AnnotatorError, BuildFailed, PassingFault, ShardFault, UsageError

ONE = Size(1, gpu=False, actors=None)


def counted(actor: int, shard: int) -> Counts:
    """A shard of one row."""
    return Counts(rows=Counter(train=1))


def run(ray: FakeRay, shards: int = 8) -> tuple[Counts, list[tuple[int, int]]]:
    """What a fleet makes of so many shards, and the progress that it told."""
    told: list[tuple[int, int]] = []
    with Fleet(ray, None, "test", ONE) as fleet:  # type: ignore[arg-type]
        fleet.open(None)
        total = fleet.build_shards(range(shards), lambda *done: told.append(done), ())
    assert sorted(ray.killed) == list(range(len(ray.actors)))  # none is left behind
    return total, told


def test_every_shard_is_built_once_by_as_many_as_fit() -> None:
    """Three nodes of one core have three actors; each shard is in exactly one pair of hands, and all are counted."""
    ray = FakeRay(counted, cores=(1, 1, 1))
    total, told = run(ray)
    assert sorted(shard for _, shard in ray.built) == list(range(8))
    assert len(ray.actors) == 3
    assert (total.inputs, told[-1]) == (8, (8, 0))
    assert told == sorted(told)


def test_what_a_dead_actor_had_is_done_by_others(caplog: pytest.LogCaptureFixture) -> None:
    """Each dies with its second shard: the shard is handed out again, once, and a line says so."""
    lives: Counter[int] = Counter()

    def build(actor: int, shard: int) -> Counts | BaseException:
        lives[actor] += 1
        return RayError("The actor is dead. Some common causes include: a page") if lives[actor] == 2 else counted(0, 0)

    ray = FakeRay(build)
    with caplog.at_level(logging.WARNING):
        total, _ = run(ray)
    assert total.inputs == 8
    assert max(Counter(shard for _, shard in ray.built).values()) <= 3
    assert "others do again (The actor is dead)" in caplog.text


def test_actors_that_always_die_end_the_build() -> None:
    """Three generations without a shard between them are an error that says what to try; those that die together count once."""
    ray = FakeRay(lambda *_: RayError("out of memory"), cores=(1,) * 8)
    with pytest.raises(BuildFailed, match=r"3 actors died .* shards? .*out of memory.*--batch-size"):
        run(ray)
    assert len(ray.actors) > 8


def test_an_interruption_ends_all_actors() -> None:
    """Ctrl-C leaves none behind, whatever they do."""

    def interrupted(actor: int, shard: int) -> Counts:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("Python raises KeyboardInterrupt first")

    ray = FakeRay(interrupted, cores=(1, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        run(ray)
    assert sorted(ray.killed) == list(range(len(ray.actors)))


def test_one_shard_that_is_given_up_is_told_at_the_end() -> None:
    """All others are built first; the same command goes on."""
    ray = FakeRay(lambda actor, shard: ShardFault("EIO") if shard == 3 else counted(actor, shard))
    with pytest.raises(PassingFault, match=r"1 shards were given up, the first is number 3: .*EIO"):
        run(ray)
    assert {shard for _, shard in ray.built} == set(range(8))


def test_three_in_a_row_end_the_build_at_once() -> None:
    """What is missing everywhere is not looked for a thousand times."""
    ray = FakeRay(lambda *_: ShardFault("the source is not there any more"))
    with pytest.raises(PassingFault, match="3 shards were given up"):
        run(ray, 1000)
    assert len(ray.built) < 20


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (AnnotatorError("no such weights"), rf"{Look.here().host}: no such weights"),
        (OSError(28, "No space left on device", "/out/shard"), rf"{Look.here().host}:/out/shard"),
    ],
)
def test_what_an_actor_raises_says_on_which_host(error: Exception, says: str) -> None:
    """It ends the build as what it is, with the host's name in it."""
    with pytest.raises(type(error), match=says):
        run(FakeRay(lambda *_: error))


def test_nodes_with_other_versions_are_refused() -> None:
    """Of condprep and Python against the driver, of libraries that change pixels against the first node; both are named."""
    other = Look("node-7", {**Look.here().versions, "condprep": "0.0.1"})
    with pytest.raises(UsageError, match=r"node-7 has condprep 0\.0\.1, and .* condprep .*: install one version"):
        run(FakeRay(counted, look=lambda _: other))
    looks = [Look(f"node-{n}", Look.here().versions) for n in range(2)]
    reports = [Report(numpy="2.4.6", opencv="5"), Report(numpy="2.5.0", opencv="5")]
    with pytest.raises(UsageError, match=r"node-1 differs from node-0 .*\(numpy: '2\.4\.6' there, '2\.5\.0' here\)"):
        run(FakeRay(counted, look=lambda n: looks[n % 2], report=lambda n: reports[n % 2]))


def nodes(*resources: tuple[int, int]) -> list[dict[str, Any]]:
    """Alive, with (cores, GPUs), and a dead one."""
    alive = [{"Alive": True, "Resources": {"CPU": float(cpu), "GPU": float(gpu)}} for cpu, gpu in resources]
    return [*alive, {"Alive": False, "Resources": {"CPU": 96.0, "GPU": 8.0}}]


@pytest.mark.parametrize(
    ("resources", "device", "network", "size", "wanted"),
    [
        (
            [(96, 8), (2, 0)],
            "auto",
            True,
            Size(12, True, None),
            8,
        ),  # a head node without a GPU is no place for networks
        ([(96, 8), (2, 0)], "auto", False, Size(2, False, None), 49),  # canny needs none
        ([(96, 8)], "cpu", True, Size(8, False, None), 12),
        ([(64, 0), (64, 0)], "auto", True, Size(8, False, None), 16),
        ([(0, 0), (4, 0)], "auto", False, Size(4, False, None), 1),
    ],
)
def test_actors_are_cut_to_fit_their_nodes(
    resources: list[tuple[int, int]], device: str, network: bool, size: Size, wanted: int
) -> None:
    """A GPU has its share of the cores; without one, an actor has no more cores than its Python keeps busy."""
    assert size_of_actors(nodes(*resources), device, network, None, None) == size
    assert size.wanted(nodes(*resources)) == wanted


@pytest.mark.parametrize(
    ("device", "cores", "says"),
    [
        ("cuda", None, "none of the 1 nodes .* has a GPU"),
        ("cuda:1", None, "a device of one machine"),
        ("cpu", 9, "no node"),
    ],
)
def test_what_no_node_has_is_told(device: str, cores: int | None, says: str) -> None:
    """Before anything is waited for that does not come; with --actors an autoscaler may bring it."""
    with pytest.raises(UsageError, match=says):
        size_of_actors(nodes((8, 0)), device, True, cores, None)
    if device == "cuda":
        assert size_of_actors(nodes((8, 0)), device, True, cores, 4).gpu


def test_without_ray_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'condprep\[ray\]'"), connected(None):
        pass


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://head:10001", "give HOST:PORT"),
        ("head", "give HOST:PORT"),
        ("127.0.0.1:1", r"does not answer \(Connection refused\)"),
        ("127.0.0.1:99999", "does not answer"),
    ],
)
def test_an_address_that_does_not_answer_is_told_soon(address: str, says: str) -> None:
    """Ray itself would wait for minutes, and then end the process."""
    with pytest.raises(UsageError, match=says):
        ray_connect._check_answers(address)


def test_a_build_that_finds_no_cluster_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    """Neither a folder nor a lock, and another engine can take the place."""
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="does not answer"):
        build(raw, tmp_path / "ds", "canny", engine="ray", address="127.0.0.1:1")
    assert not (tmp_path / "ds").exists()
