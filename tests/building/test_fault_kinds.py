"""Faults are told apart: what an input did wrong, what passes and is tried again, and what the target refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.datasets import tree
from support.faulty import SMALL, failing, os_error, pictures
from support.fragile import Fragile

from condprep import Maps, build
from condprep.building import picture
from condprep.errors import BuildFailed, PassingFault, Rejected, TargetFault
from condprep.runtime.retry import ATTEMPTS, is_passing, retried
from condprep.sources import base
from condprep.sources.folder import FolderSource

# retries


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOMEM])
def test_what_passes_is_tried_again(number: int) -> None:
    """A fault of storage that is gone at the last attempt costs nothing; one attempt more, and it is an error."""
    failures = iter([True] * (ATTEMPTS - 1))

    def work() -> str:
        if next(failures, False):
            raise OSError(number, "for the moment")
        return "done"

    assert retried(work) == "done"
    failures = iter([True] * ATTEMPTS)
    with pytest.raises(PassingFault, match="Nothing is lost: the same command goes on"):
        retried(work, "1.jpg")


@pytest.mark.parametrize("error", [FileNotFoundError(2, ""), PermissionError(13, ""), ValueError("no"), OSError("no")])
def test_what_is_the_same_tomorrow_is_not_tried_again(error: Exception) -> None:
    """A file that is not there, or may not be read, and every other error: once is enough."""
    calls = []

    def work() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retried(work)
    assert (len(calls), is_passing(error)) == (1, False)


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt comes at once; each further one waits four times as long as the one before."""
    monkeypatch.setattr("condprep.runtime.retry.PAUSE", 0.5)
    slept: list[float] = []
    with pytest.raises(PassingFault):
        retried(lambda: (_ for _ in ()).throw(MemoryError()), sleep=slept.append)
    assert slept == [0.5, 2.0, 8.0, 32.0]


# an input's own faults


def test_missing_files_are_one_class_of_rejects(tmp_path: Path, source: Path) -> None:
    """However many names a listing has of files that are not there: they are counted with one code."""
    lines = [f'{{"file_name": "{name}.png", "text": ""}}\n' for name in ["00", *(f"gone{n}" for n in range(50))]]
    (source / "metadata.jsonl").write_text("".join(lines))
    result = build(source, tmp_path / "ds", "canny", **SMALL)
    assert (result.rows, result.rejects) == ({"train": 1}, {"missing-file": 50})


def test_a_folder_with_the_name_of_a_caption_rejects_nothing(tmp_path: Path, source: Path) -> None:
    """00.txt beside 00.png may be a folder: the picture has no caption then."""
    (source / "00.txt").mkdir()
    assert build(source, tmp_path / "ds", "canny", **SMALL).rows == {"train": 12}


class Nobody(Fragile):
    """Rejects every picture but the last one that it sees, as one that finds no face."""

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        raise Rejected("annotate", "no face", code="no-face")


def test_pictures_that_an_annotator_rightly_rejects_never_stop_a_build(tmp_path: Path, fragile: Fragile) -> None:
    """Forty in a row that it rejects are forty rejects with its own code; the build comes to its end."""
    fragile.__class__ = Nobody
    with pytest.raises(BuildFailed, match="none of 40 inputs became a row") as raised:
        build(pictures(tmp_path / "many", 40), tmp_path / "ds", "fragile", **SMALL)
    assert raised.value.result.rejects == {"no-face": 40}


# passing faults in a build


def test_a_file_that_can_be_read_a_moment_later_is_a_row(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO twice, then it is there: nobody notices."""
    left = iter([True, True])
    monkeypatch.setattr(os, "open", failing(os_error(errno.EIO), lambda path: "07.png" in path and next(left, False)))
    assert build(source, tmp_path / "ds", "canny", **SMALL).rows == {"train": 12}


def test_a_shard_whose_storage_hangs_is_given_up_and_done_later(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file that cannot be read now: its shard is not there, the others are; nothing is a reject. Later the same
    command does that shard alone, and gives the bytes of a build that never met it."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(os_error(errno.ESTALE), lambda path: "07.png" in path))
        with pytest.raises(PassingFault, match=r"1 shards were given up, the first is number 1: 07.png"):
            build(source, tmp_path / "ds", "canny", **SMALL)
    shards = tmp_path / "ds" / ".condprep" / "shards"
    assert sorted(path.name for path in shards.iterdir()) == ["000000", "000002"]
    result = build(source, tmp_path / "ds", "canny", **SMALL)
    assert (result.rows, result.rejects, result.resumed) == ({"train": 12}, {}, 7)
    build(source, tmp_path / "whole", "canny", **SMALL)
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")


@pytest.mark.parametrize("annotator", ["canny", "fragile"])
def test_memory_that_is_short_is_no_broken_picture(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, fragile: Fragile, annotator: str
) -> None:
    """A decoder that gets no memory is asked again; where it never gets any, the build ends with an error, without rejects."""
    fragile.limit = 99
    real, left = picture.decode, iter([True] * 3)

    def decode(*arguments: Any, **more: Any) -> Any:
        if next(left, False):
            raise MemoryError
        return real(*arguments, **more)

    monkeypatch.setattr(picture, "decode", decode)
    assert build(source, tmp_path / "ds", annotator, **SMALL).rows == {"train": 12}
    left = iter([True] * 10_000)
    with pytest.raises(PassingFault, match="there is not enough memory"):
        build(source, tmp_path / "never", annotator, **SMALL)
    assert not list((tmp_path / "never").rglob("rejects.jsonl"))


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "no memory"), OSError("out of memory error when reading image file")]
)
def test_a_decoder_without_memory_says_so(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever words it has for that: it is never a reject."""
    from condprep.images import decode

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(decode, "_through_pillow", fails)
    with pytest.raises(type(error)):
        decode.decode(b"\x89PNG\r\n\x1a\n")


def test_a_source_that_goes_away_is_no_reject(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is gone after the first shard: an error, no reject; when it is back, the same command goes on."""
    real, read = base.read_regular, []

    def away(path: Path, **more: Any) -> bytes:
        read.append(path)
        if len(read) > 5 and source.exists():
            source.rename(tmp_path / "away")
        return real(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(base, "read_regular", away)
        with pytest.raises(PassingFault, match=r"pictures is not there any more; put it back"):
            build(source, tmp_path / "ds", "canny", workers=1, **SMALL)
    assert not (tmp_path / "ds" / ".condprep" / "rejects.jsonl").exists()
    (tmp_path / "away").rename(source)
    assert build(source, tmp_path / "ds", "canny", **SMALL).rows == {"train": 12}


def test_another_mount_is_not_the_source(source: Path) -> None:
    """A file that is missing where something else is mounted by now was not taken away from the source."""
    opened = FolderSource(source)
    entry = next(opened.entries())
    (source / "00.png").unlink()
    with pytest.raises(Rejected):
        opened.read(entry)
    object.__setattr__(opened, "device", opened.device + 1)
    with pytest.raises(PassingFault, match="not what was mounted there"):
        opened.read(entry)


def test_storage_that_stays_away_ends_a_build_soon(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three shards in a row that are given up: the rest is not tried."""
    monkeypatch.setattr(os, "open", failing(os_error(errno.EIO), lambda path: path.endswith(".png")))
    with pytest.raises(PassingFault, match="3 shards were given up"):
        build(source, tmp_path / "ds", "canny", resolution=64, shard_rows=2)


# the target


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_a_target_that_fails_stops_at_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What its disk refuses is said, what was finished stays, and the same command goes on."""
    from condprep.dataset.shards import ShardWriter

    real, done = ShardWriter.commit, iter([True])

    def commit(self: ShardWriter) -> None:
        if not next(done, False):
            raise OSError(number, os.strerror(number), str(self.folder))
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "commit", commit)
        with pytest.raises(TargetFault, match=os.strerror(number)):
            build(source, tmp_path / "ds", "canny", **SMALL)
    assert build(source, tmp_path / "ds", "canny", **SMALL).resumed == 5
