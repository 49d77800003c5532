"""Building where something is already: shards, the same command again, other settings, folders of others, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from PIL import Image
from support.datasets import tree

from condprep import build
from condprep.building.output_folder import locked
from condprep.dataset.layout import Layout
from condprep.errors import BuildFailed, DatasetError, SourceError, UsageError
from condprep.runtime.progress import Progress

SMALL = {"resolution": 128, "shard_rows": 5}


def test_shards_are_cut_by_rows_and_by_bytes(raw: Path, tmp_path: Path) -> None:
    """No file has more rows than asked for; one that grows beyond the bytes is followed by another."""
    build(raw, tmp_path / "rows", "canny", **SMALL)
    assert len(list((tmp_path / "rows" / "train").glob("*.arrow"))) == 3
    how = {"resolution": 320, "max_upscale": 4, "image_format": "png", "shard_rows": 12, "shard_bytes": 1_000_000}
    build(raw, tmp_path / "bytes", "canny", **how)
    files = sorted((tmp_path / "bytes" / "train").glob("*.arrow"))
    assert len(files) > 1
    assert all(file.stat().st_size < 1_600_000 for file in files)
    assert load_from_disk(str(tmp_path / "bytes"))["train"].num_rows == 12


def test_the_workers_do_not_change_the_bytes(raw: Path, tmp_path: Path) -> None:
    """One worker and five give the same files, byte for byte, in every fit."""
    for fit in ("crop", "bucket", "pad", "keep"):
        options: dict[str, Any] = {**SMALL, "fit": fit, "max_upscale": 4}
        build(raw, tmp_path / f"{fit}1", "canny", workers=1, **options)
        build(raw, tmp_path / f"{fit}5", "canny", workers=5, **options)
        assert tree(tmp_path / f"{fit}1") == tree(tmp_path / f"{fit}5")


def test_a_finished_build_is_not_done_again(raw: Path, tmp_path: Path) -> None:
    """The same call on a finished dataset changes nothing and says so."""
    first = build(raw, tmp_path / "ds", "canny", **SMALL)
    before = tree(tmp_path / "ds")
    second = build(raw, tmp_path / "ds", "canny", **SMALL)
    assert (second.rows, second.resumed) == (first.rows, first.inputs)
    assert tree(tmp_path / "ds") == before


def test_other_settings_on_an_existing_dataset_are_refused(raw: Path, tmp_path: Path) -> None:
    """Each differing setting is named with both values; --overwrite starts afresh."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    with pytest.raises(DatasetError, match=r"resolution: 128 there, 192 now.*overwrite=True"):
        build(raw, tmp_path / "ds", "canny", resolution=192, shard_rows=5)
    with pytest.raises(DatasetError, match=r"canny.low: None there, 50 now"):
        build(raw, tmp_path / "ds", "canny", params={"canny": {"low": 50}}, **SMALL)
    build(raw, tmp_path / "ds", "canny", resolution=192, shard_rows=5, overwrite=True)
    assert load_from_disk(str(tmp_path / "ds"))["train"][0]["width"] == 192
    assert (
        tree(tmp_path / "ds").keys()
        == (build(raw, tmp_path / "new", "canny", resolution=192, shard_rows=5), tree(tmp_path / "new"))[1].keys()
    )


def test_inputs_that_changed_since_are_noticed(raw: Path, tmp_path: Path) -> None:
    """New, missing and changed pictures are counted and named when the build is run again."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    Image.new("RGB", (200, 200)).save(raw / "new.png")
    (raw / "group0" / "00.jpg").unlink()
    shutil.copy(raw / "group1" / "01.png", raw / "group1" / "04.png")
    with pytest.raises(
        DatasetError, match=r"1 new \('new.png'\), 1 gone \('group0/00.jpg'\), 1 changed \('group1/04.png'\)"
    ):
        build(raw, tmp_path / "ds", "canny", **SMALL)


def test_folders_of_others_are_left_alone(raw: Path, tmp_path: Path) -> None:
    """A folder that condprep did not make is refused, also with --overwrite; so is a source inside the output."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="not made by condprep"):
            build(raw, tmp_path / "other", "canny", overwrite=overwrite)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="inside the output folder"):
        build(raw, tmp_path, "canny")
    with pytest.raises(UsageError, match="inside the output folder"):
        build(raw, raw, "canny")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        build(raw, tmp_path / "file", "canny")


def test_the_output_may_lie_inside_the_source(raw: Path, tmp_path: Path) -> None:
    """`condprep build . --out ds` does not take its own output for input, also when it resumes."""
    for _ in range(2):
        result = build(raw, raw / "ds", "canny", **SMALL)
        assert result.inputs == 12


def test_a_second_process_is_refused(raw: Path, tmp_path: Path) -> None:
    """While one process builds into a folder another one is told so."""
    with locked(Layout(tmp_path / "ds")), pytest.raises(DatasetError, match="another process is building"):
        build(raw, tmp_path / "ds", "canny", **SMALL)
    assert build(raw, tmp_path / "ds", "canny", **SMALL).rows == {"train": 12}


def test_a_mistake_leaves_no_folder_behind(raw: Path, tmp_path: Path) -> None:
    """A device that is not there ends the build before it began: nothing is written, and a folder that was stays."""
    (tmp_path / "mine").mkdir()
    for name in ("ds", "mine"):
        with pytest.raises(UsageError, match="device"):
            build(raw, tmp_path / name, "canny", device="nonsense")
        assert not (tmp_path / name / ".condprep").exists()
    assert not (tmp_path / "ds").exists()


def test_no_rows_and_too_many_rejects_fail(tmp_path: Path, raw: Path) -> None:
    """Nothing built, or more rejects than allowed, is a failure with the reasons; an empty source is a mistake."""
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(SourceError):
        build(bad, tmp_path / "ds0", "canny")
    (bad / "a.jpg").write_bytes(b"x")
    with pytest.raises(BuildFailed, match="none of 1 inputs became a row"):
        build(bad, tmp_path / "ds1", "canny")
    (raw / "a.jpg").write_bytes(b"x")
    with pytest.raises(BuildFailed, match=r"1 of 13 inputs \(7.7%\) were rejected, more than 5.0%") as failed:
        build(raw, tmp_path / "ds2", "canny", max_rejects=0.05, **SMALL)
    assert failed.value.result.rows == {"train": 12}
    assert build(raw, tmp_path / "ds2", "canny", max_rejects=0.1, **SMALL).resumed == 13


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resolution": 500}, r"^resolution = 500: .*multiple of 8"),
        ({"fit": "stretch"}, "^fit = 'stretch'"),
        ({"validation": 1.5}, "^validation = 1.5"),
        ({"primary": "hed"}, "primary 'hed' is not among the annotators canny"),
        ({"params": {"hed": {"low": 1}}}, "'hed', which is not among the annotators canny"),
    ],
)
def test_a_wrong_option_is_quoted(raw: Path, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """The message has the option, its value and what would be right, and nothing is written."""
    with pytest.raises(UsageError, match=says):
        build(raw, tmp_path / "ds", "canny", **options)
    assert not (tmp_path / "ds").exists()


def test_an_interrupted_build_goes_on(raw: Path, tmp_path: Path) -> None:
    """A KeyboardInterrupt in the middle leaves what is finished, of a shard under way, too; the next call gives the bytes of
    one that never stopped."""

    def interrupt(state: Progress) -> None:
        if state.stage == "build" and state.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(raw, tmp_path / "ds", "canny", progress=interrupt, **SMALL)
    assert not (tmp_path / "ds" / "dataset_dict.json").exists()
    assert build(raw, tmp_path / "ds", "canny", workers=1, **SMALL).resumed == 7
    build(raw, tmp_path / "whole", "canny", **SMALL)
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")
