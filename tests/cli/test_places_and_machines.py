"""What is wrong with a place, a cluster or a part is one line: what it is, and what to do. No stack trace, no reject."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from PIL import Image
from support import cluster_here
from support.command import Command, Run
from support.pictures import smooth
from support.s3_server import BUCKET, S3Server

from condprep.building.on_ray import NodeJob
from condprep.engines.ray_node import Look, Node
from condprep.runtime.stores import FsspecStore


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.fromarray(smooth(64, 64, number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients of S3 that begin now, with what the environment says by then, and end with the test."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def build(command: Command, raw: Path, tmp_path: Path) -> Callable[..., Run]:
    """`condprep build` of a few pictures, or another source, to a folder, or another place."""

    def run(*options: object, source: object = raw, out: object = tmp_path / "ds") -> Run:
        return command("build", source, "-a", "canny", "-o", out, "--resolution", 64, "--shard-size", 1, *options)

    return run


def said(ended: Run, code: int, words: str) -> None:
    """One error, in one line, with that exit code."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert (ended.code, ended.out, len(lines)) == (code, "", 1), ended
    assert "Traceback" not in ended.err
    assert re.search(words, lines[0]), lines[0]


def test_without_ray(build: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    said(build("--engine", "ray"), 2, r"needs Ray, which is not installed: pip install 'condprep\[ray\]'")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "127.0.0.1:1",
            r"127\.0\.0\.1:1 does not answer \(Connection refused\); give the address that `ray start --head`",
        ),
        ("head", "--address head: give HOST:PORT as `ray start --head` prints it"),
    ],
)
def test_an_address_that_does_not_answer(
    build: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, words: str
) -> None:
    """It is said at once, and nothing is begun."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    said(build("--engine", "ray", "--address", address), 2, words)
    assert not (tmp_path / "ds").exists()


def test_versions_that_differ_between_nodes(build: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts, both versions, and what to do."""
    cluster_here.install(monkeypatch)
    monkeypatch.setattr(Node, "look", lambda _: Look("node-7", {**Look.here().versions, "condprep": "0.0.1"}))
    said(
        build("--engine", "ray"),
        2,
        r"node-7 has condprep 0\.0\.1, and .* condprep .*: install one version on all nodes",
    )


@pytest.mark.parametrize("what", ["source", "weights"])
def test_a_path_that_a_worker_does_not_see(
    build: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raw: Path, what: str
) -> None:
    """A source, or a folder of weights, that lies on the machine of the command alone: the host, the path, and the remedy."""
    cluster_here.install(monkeypatch)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(next(raw.rglob("*.png")).read_bytes())
    opened = NodeJob.open

    def elsewhere(job: NodeJob, begun: Any) -> Any:
        (tmp_path / "mine").rename(tmp_path / "away")
        return opened(job, begun)

    monkeypatch.setattr(NodeJob, "open", elsewhere)
    mine = {"source": {"source": tmp_path / "mine"}, "weights": {}}[what]
    options = {"source": (), "weights": ("--weights", tmp_path / "mine")}[what]
    words = rf"^error: \S+: does not see {tmp_path / 'mine'}: all nodes need it under the same path"
    said(build("--engine", "ray", *options, **mine), 2, words)


@pytest.mark.parametrize(
    ("side", "code", "words"),
    [
        ("source", "ExpiredToken", "may not be read .*aws sso login.*and run the same command again"),
        pytest.param("source", "RequestTimeTooSkewed", "clock is wrong; set it right", marks=pytest.mark.slow),
        ("target", "ExpiredToken", "may not be written .*aws sso login.*the same command"),
        ("target", "AccessDenied", "may not be written .*aws configure.*the same command"),
    ],
)
def test_what_a_store_refuses_in_the_middle(
    build: Callable[..., Run], s3: S3Server, raw: Path, tmp_path: Path, side: str, code: str, words: str
) -> None:
    """Credentials that ended, rights that are gone, a clock that differs: exit code 1, and once it is mended the same command goes on."""
    where: dict[str, Any] = {"out": f"s3://{BUCKET}/middle-{code}"}
    if side == "source":
        where = {"source": s3.upload(raw, f"middle-of-{code}")}
    only = "/shards/" if side == "target" else "/bucket/middle-of"
    s3.fail(refuse=code, after=2 if side == "source" else 0, only=only)
    said(build(**where), 1, words)
    s3.fail()
    ended = build("--json", **where)
    assert (ended.code, ended.json["rows"], ended.json["rejects"]) == (0, {"train": 3}, {})


@pytest.mark.usefixtures("new_clients")
def test_no_credentials(
    build: Callable[..., Run], s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whose they are, and how they are given; to read and to write."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for where in ({"source": f"s3://{BUCKET}/raw"}, {"out": f"s3://{BUCKET}/ds"}):
        said(build(**where), 1, "may not be (read|written) .*give AWS credentials .*`aws configure`")


def test_a_bucket_that_is_not_there(build: Callable[..., Run], s3: S3Server, tmp_path: Path) -> None:
    """Of a source, and of a target."""
    said(build(source="s3://of-nobody/raw"), 2, "there is no bucket of 's3://of-nobody/raw'")
    said(build(out="s3://of-nobody/ds"), 1, "s3://of-nobody/ds.* cannot be written: there is no such bucket; create it")
    assert not (tmp_path / "ds").exists()


def test_an_object_that_is_replaced_while_it_is_read(
    build: Callable[..., Run], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one, and that it can be put back."""
    files, name = fsspec.filesystem("memory"), "/bucket/replaced/1.png"
    files.pipe_file(name, (data := next(raw.rglob("*.png")).read_bytes()))
    read = FsspecStore.read

    def replaced(store: FsspecStore, *arguments: Any) -> bytes:
        files.pipe_file(name, data + b"more")
        return read(store, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(FsspecStore, "read", replaced)
        ended = build(source="memory://bucket/replaced")
    said(
        ended,
        2,
        r"memory://bucket/replaced/1\.png is another object than the one that was listed; put it back as it was",
    )
    files.rm("/bucket/replaced", recursive=True)


@pytest.mark.parametrize(
    ("part", "words"), [("3/3", "parts are counted from 0, so of 3 the last is 2/3"), ("three", "not of the form I/N")]
)
def test_a_part_that_there_is_not(build: Callable[..., Run], tmp_path: Path, part: str, words: str) -> None:
    """What parts there are."""
    said(build("--part", part), 2, f"--part .*{part}.*{words}")
    assert not (tmp_path / "ds").exists()


def test_a_finish_that_is_too_early(build: Callable[..., Run], command: Command, tmp_path: Path) -> None:
    """Which shards are missing, and which part builds them."""
    assert build("--part", "1/2").code == 0
    before = sorted(os.listdir(tmp_path / "ds" / ".condprep"))
    said(command("finish", tmp_path / "ds"), 1, "--part 0/2")
    assert sorted(os.listdir(tmp_path / "ds" / ".condprep")) == before
