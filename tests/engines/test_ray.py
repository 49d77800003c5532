"""The engine of a Ray cluster, in a real one of three nodes on this machine: the same bytes, whoever dies."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from support import ray_worker
from support.datasets import tree
from support.s3_server import BUCKET, S3Server

from condprep import build
from condprep.building.load_annotators import Loaded
from condprep.building.on_ray import NodeJob
from condprep.building.options import parse_options
from condprep.dataset.layout import Layout
from condprep.dataset.target import Target
from condprep.engines import ray_fleet
from condprep.errors import AnnotatorError, UsageError
from condprep.runtime.progress import Progress
from condprep.sources.open import open_source
from condprep.weights.find import Weights

ray = pytest.importorskip("ray")

SMALL: dict[str, Any] = {"resolution": 64, "shard_rows": 1}
PICTURES = 40
KILLS = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def expected(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the dataset that a build in this process makes of them."""
    out = tmp_path_factory.mktemp("expected") / "ds"
    build(pictures, out, ["canny", "canny:random"], **SMALL)
    return tree(out)


@pytest.fixture(scope="module")
def cluster(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three nodes of a core each, and this process connected to them; all reach one S3."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:  # a node has the environment that it began with
        for name, value in s3_server.environment().items():
            patched.setenv(name, value)
        patched.setenv("CONDPREP_CACHE", str(tmp_path_factory.mktemp("nodes")))
        yield from _running(Cluster)


def _running(Cluster: Any) -> Iterator[Any]:
    node = {"num_cpus": 1, "setup_worker_path": ray_worker.__file__}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True})
    cluster.add_node(**node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def actors(fleet: Any) -> list[int]:
    """The processes of a fleet, on whichever node: by Ray's own table, as their titles change with what they are asked."""
    known = ray._private.state.actors().values()
    of_fleet = [one for one in known if one["Name"].startswith(f"{fleet._name} ") and one["State"] == "ALIVE"]
    return [one["Pid"] for one in of_fleet if _lives(one["Pid"])]


def _lives(pid: int) -> bool:
    """Ray's table knows a while later."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def after_each_shard(do: Callable[[Any], None]) -> Any:
    """The fleet's note of a shard that was committed, and then `do` with the fleet."""
    built = ray_fleet.Fleet._built

    def noted(self: Any, *arguments: Any) -> None:
        built(self, *arguments)
        do(self)

    return noted


@pytest.mark.slow
def test_whoever_dies_they_make_the_bytes_of_one(
    cluster: Any, pictures: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actors are killed outright, twenty times, a whole node is taken away, and then the driver is killed: nothing is lost or doubled.

    One test, for one cluster: to start it takes longer than to build in it.
    """
    driver_dies(cluster, pictures, tmp_path / "resumed")
    rng, kills, removed = random.Random(0), 0, False

    def kill(fleet: Any) -> None:
        nonlocal kills, removed
        if not removed and kills == 3:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
            removed = True
        elif kills < KILLS and (alive := actors(fleet)):
            os.kill(rng.choice(alive), signal.SIGKILL)
            kills += 1

    monkeypatch.setattr(ray_fleet.Fleet, "_built", after_each_shard(kill))
    for out in itertools.chain([tmp_path / "resumed"], (tmp_path / f"ds{number}" for number in itertools.count())):
        seen: list[Progress] = []
        result = build(pictures, out, ["canny", "canny:random"], engine="ray", progress=seen.append, **SMALL)
        assert (result.inputs, result.rows, result.rejects) == (PICTURES, {"train": PICTURES}, {})
        assert (result.resumed >= 5) == (out.name == "resumed")
        assert tree(out) == expected
        assert {(state.stage, state.done) for state in seen} >= {("build", PICTURES), ("finish", PICTURES)}
        if kills == KILLS:
            break
    assert removed


@pytest.mark.slow
def test_at_a_url_they_make_the_bytes_of_a_folder(
    cluster: Any,
    pictures: Path,
    expected: dict[str, bytes],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each actor sends its own shards, from a working folder of its own; two of them are killed outright, and nothing else is left at the
    URL. A node that reaches another place under the URL is told."""
    kills = 0

    def kill(fleet: Any) -> None:
        nonlocal kills
        if kills < 2 and (alive := actors(fleet)):
            os.kill(alive[0], signal.SIGKILL)
            kills += 1

    url, seen = f"s3://{BUCKET}/on-ray", list[Progress]()
    with monkeypatch.context() as patched:
        patched.setattr(ray_fleet.Fleet, "_built", after_each_shard(kill))
        result = build(pictures, url, ["canny", "canny:random"], engine="ray", progress=seen.append, **SMALL)
    assert (result.inputs, result.rows, result.url, kills) == (PICTURES, {"train": PICTURES}, url, 2)
    assert {name: s3.get(f"on-ray/{name}") for name in expected} == expected
    assert s3.keys("on-ray/") == {f"on-ray/{name}" for name in expected}
    target = Target.at(url)
    with pytest.raises(UsageError, match=rf"sees another {url} .* same endpoint"):
        replace(job(pictures, tmp_path / "ds"), layout=Layout(target.folder, target)).open(None)


def driver_dies(cluster: Any, pictures: Path, out: Path) -> None:
    """A build whose command is killed outright after five shards; it has said nothing of Ray's."""
    code = f"""
import condprep, os, signal
from condprep.engines import ray_fleet
built = ray_fleet.Fleet._built
def noted(self, *arguments):
    built(self, *arguments)
    if self._total.inputs == 5:
        os.kill(os.getpid(), signal.SIGKILL)
ray_fleet.Fleet._built = noted
condprep.build({str(pictures)!r}, {str(out)!r}, ["canny", "canny:random"], engine="ray", address={cluster.address!r}, **{SMALL!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (ended.stdout, ended.stderr) == ("", "")
    assert not (out / "train").exists()


def job(source: Path, out: Path, **other: Any) -> NodeJob:
    """What a node would be told of a build."""
    layout, options = Layout(out), parse_options("canny", resolution=64)
    out.joinpath(".condprep").mkdir(parents=True)
    layout.lock.write_text("mark")
    how = {"folder": Path.cwd(), "paths": (source,), "mark": "mark", **other}
    return NodeJob(layout, open_source(source), options, Weights(), "cpu", **how)


def test_a_node_that_does_not_see_what_it_needs_says_so(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, the folder where the build was begun, or another folder under the output's name: in a line, soon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("condprep.building.on_ray.PATIENCE", 0)
    assert job(pictures, tmp_path / "ds").open(None).report.loaded.described[0]["annotator"] == "canny"
    with pytest.raises(UsageError, match="does not see /no/such/weights: all nodes need it under the same path"):
        job(pictures, tmp_path / "ds1", paths=(pictures, Path("/no/such/weights"))).open(None)
    with pytest.raises(UsageError, match="does not see /no/such/folder, where the build was begun"):
        job(pictures, tmp_path / "ds2", folder=Path("/no/such/folder")).open(None)
    with pytest.raises(UsageError, match="out must be a folder that all nodes share"):
        job(pictures, tmp_path / "ds3", mark="another").open(None)


def test_a_node_with_other_weights_is_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named with both hashes: its maps would be others. Another annotator's file of the same name is another one."""
    loaded = Loaded({}, [{"column": "net", "weights": {"net.pth": "bb"}}], {}, 1, None, {})
    monkeypatch.setattr("condprep.building.on_ray.load", lambda *_: loaded)
    with pytest.raises(AnnotatorError, match=r"has other weights net\.pth \(sha256 bb\) than .* \(sha256 aa\)"):
        job(pictures, tmp_path / "ds", sha256={"net": {"net.pth": "aa"}}).open(None)
    for number, same in enumerate(({"net": {"net.pth": "bb"}}, {"other": {"net.pth": "aa"}})):
        assert job(pictures, tmp_path / f"same{number}", sha256=same).open(None).loaded is loaded


def test_options_of_another_engine_are_refused(pictures: Path, tmp_path: Path) -> None:
    """--devices are of one machine, --address and --actors of a cluster."""
    with pytest.raises(UsageError, match="devices are those of one machine"):
        build(pictures, tmp_path / "ds", "canny", engine="ray", devices="cpu,cpu")
    with pytest.raises(UsageError, match=r"^actors 3 is for engine ray"):
        build(pictures, tmp_path / "ds", "canny", actors=3)
    with pytest.raises(UsageError, match=r"^actors 0: there must be one"):
        build(pictures, tmp_path / "ds", "canny", engine="ray", actors=0)
    assert not (tmp_path / "ds").exists()
