"""`--retry-rejects`: what was rejected is tried again on purpose, and nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from PIL import Image
from support.command import Command
from support.datasets import tree
from support.faulty import SMALL
from support.fragile import Fragile
from support.pictures import smooth

from condprep import add_columns, build
from condprep.dataset.shards import ShardWriter
from condprep.errors import DatasetError, UsageError


@pytest.fixture
def broken(source: Path) -> Path:
    """The twelve pictures and two broken ones, the first and one in the middle."""
    (source / "-first.png").write_bytes(b"")
    (source / "06-cut.png").write_bytes((source / "06.png").read_bytes()[:200])
    return source


def mend(source: Path) -> None:
    for name in ("-first.png", "06-cut.png"):
        Image.fromarray(smooth(80, 80, 9)).save(source / name)


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_mended_input_becomes_a_row_of_a_finished_dataset(tmp_path: Path, broken: Path, form: str) -> None:
    """Only on request, and only the shards that hold such rejects are built again: the bytes are those of a new build."""
    how = {**SMALL, "format": form, "validation": 0.3}
    assert build(broken, tmp_path / "ds", "canny", **how).rejects == {"empty": 1, "truncated": 1}
    mend(broken)
    with pytest.raises(DatasetError, match="the inputs changed since this build began: 2 changed"):
        build(broken, tmp_path / "ds", "canny", **how)
    result = build(broken, tmp_path / "ds", "canny", retry_rejects="all", **how)
    assert (sum(result.rows.values()), result.rejects, result.resumed) == (14, {}, 4)
    build(broken, tmp_path / "new", "canny", **how)
    assert tree(tmp_path / "ds") == tree(tmp_path / "new")
    assert build(broken, tmp_path / "ds", "canny", **how).resumed == 14


def test_what_was_computed_of_fewer_rows_is_not_taken_for_all(tmp_path: Path, broken: Path) -> None:
    """A file that is mended with its size and time has no other plan, and yet `datasets` knows that its rows are others: what
    `map` has cached of the rows before is not given for those that are there now."""
    good = (broken / "05.png").read_bytes()
    (broken / "05.png").write_bytes(b"x" * len(good))
    os.utime(broken / "05.png", (1, 1))
    build(broken, tmp_path / "ds", "canny", **SMALL)
    assert len(load_from_disk(str(tmp_path / "ds"))["train"].map(_named)) == 11
    (broken / "05.png").write_bytes(good)
    os.utime(broken / "05.png", (1, 1))
    build(broken, tmp_path / "ds", "canny", retry_rejects="unknown-format", **SMALL)
    found = load_from_disk(str(tmp_path / "ds"))["train"].map(_named)
    assert found["name"][:] == found["source"][:]
    assert len(found) == 12


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["source"]}


def test_one_code_is_tried_again_alone(tmp_path: Path, broken: Path, command: Command) -> None:
    """Rejects of other codes stay what they are; what is still wrong is a reject again."""
    how = ("-a", "canny", "--out", tmp_path / "ds", "--resolution", "64", "--shard-size", "5")
    assert command("build", broken, *how).code == 0
    Image.fromarray(smooth(80, 80, 9)).save(broken / "06-cut.png")
    ended = command("build", broken, *how, "--retry-rejects", "truncated")
    assert ended.code == 0, ended.err
    assert "14 = 13 rows + 1 rejected" in ended.out
    assert "1 x empty: no bytes at all" in ended.out
    ended = command("build", broken, *how, "--retry-rejects", "empty")
    assert "14 = 13 rows + 1 rejected" in ended.out
    ended = command("build", broken, *how, "--retry-rejects", "trunkated")
    assert ended.code == 2
    assert "--retry-rejects trunkated: no reject has this code; there are empty" in ended.err


def test_other_inputs_must_be_what_they_were(tmp_path: Path, broken: Path) -> None:
    """A picture that was a row may not change under it; then nothing is taken back."""
    build(broken, tmp_path / "ds", "canny", **SMALL)
    before = tree(tmp_path / "ds")
    mend(broken)
    Image.fromarray(smooth(80, 80, 3)).save(broken / "03.png")
    for codes in ("all", "truncated"):
        with pytest.raises(DatasetError, match="the inputs changed"):
            build(broken, tmp_path / "ds", "canny", retry_rejects=codes, **SMALL)
    assert tree(tmp_path / "ds") == before


def test_an_annotator_that_was_mended_gets_its_pictures_again(tmp_path: Path, source: Path, fragile: Fragile) -> None:
    """Nothing of the source has changed; the same call once more, stopped in the middle, goes on."""
    Image.new("RGB", (80, 80)).save(source / "05-black.png")
    assert build(source, tmp_path / "ds", "fragile", **SMALL).rejects == {"annotator-failed": 1}
    fragile.darkest = 0
    with pytest.MonkeyPatch.context() as patched:

        def stop(self: ShardWriter) -> None:
            raise KeyboardInterrupt

        patched.setattr(ShardWriter, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            build(source, tmp_path / "ds", "fragile", retry_rejects="annotator-failed", **SMALL)
    result = build(source, tmp_path / "ds", "fragile", **SMALL)  # with or without saying so again
    assert (result.rows, result.rejects, result.resumed) == ({"train": 13}, {}, 12)


def test_a_build_that_has_not_finished_does_not_wait_for_its_end(
    tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards that it has are taken back where they hold such rejects; the same bytes come out."""
    real, left = ShardWriter.commit, iter([True, True])

    def commit(self: ShardWriter) -> None:
        if not next(left, False):
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            build(broken, tmp_path / "ds", "canny", **SMALL)
    mend(broken)
    result = build(broken, tmp_path / "ds", "canny", retry_rejects=["empty", "truncated"], **SMALL)
    assert (result.rows, result.rejects) == ({"train": 14}, {})
    build(broken, tmp_path / "new", "canny", **SMALL)
    assert tree(tmp_path / "ds") == tree(tmp_path / "new")


def test_what_cannot_be_tried_again_is_said(tmp_path: Path, broken: Path) -> None:
    """A code that nobody knows, and a dataset that got columns since."""
    build(broken, tmp_path / "ds", "canny", **SMALL)
    with pytest.raises(UsageError, match="there are empty, truncated"):
        build(broken, tmp_path / "ds", "canny", retry_rejects="nonsense", **SMALL)
    add_columns(tmp_path / "ds", "canny:random")
    with pytest.raises(DatasetError):
        build(broken, tmp_path / "ds", "canny", retry_rejects="all", **SMALL)
