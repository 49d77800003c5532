"""A build in parts: several processes on one folder, the same bytes, and nobody in somebody's way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.datasets import tree
from support.faulty import FIVE_SHARDS as SMALL
from support.thorough import slow_ones

import condprep
from condprep import build
from condprep.building import plan_by_one
from condprep.building.output_folder import locked
from condprep.building.parts import Part
from condprep.dataset.layout import Layout
from condprep.errors import BuildFailed, DatasetError, SourceError, UsageError
from condprep.runtime.progress import Progress


@contextmanager
def living(out: Path, part: Part | None) -> Iterator[Layout]:
    """As if a process were building there."""
    with locked(Layout(out), part):
        yield Layout(out)


@pytest.mark.parametrize("order", [[1, 1, 2, 0, 2], *slow_ones([[0, 1, 2], [2, 0, 1]])])
@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_parts_in_any_order_make_the_bytes_of_one_build(
    few: Path, whole: dict[str, bytes], tmp_path: Path, order: list[int], form: str
) -> None:
    """Whoever comes first writes the plan; each builds its own shards, twice changes nothing, and finish makes the dataset."""
    out, options = tmp_path / "ds", SMALL | {"format": form}
    for number in order:
        result = build(few, out, "canny", part=(number, 3), **options)
        assert (result.part, result.inputs) == (f"{number}/3", {0: 4, 1: 3, 2: 2}[number])
        assert result.inputs == sum(result.rows.values()) + sum(result.rejects.values())
    finished = condprep.finish(out)
    assert (finished.part, finished.inputs, finished.rejects) == (None, 9, {"empty": 1})
    if form == "parquet":
        build(few, tmp_path / "whole", "canny", **options)
        whole = tree(tmp_path / "whole")
    assert tree(out) == whole
    assert condprep.finish(out).rows == finished.rows
    assert build(few, out, "canny", part="0/3", **SMALL | {"format": form}).inputs == 9
    assert tree(out) == whole


def test_more_parts_than_shards_are_parts_with_nothing(few: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """An array that is larger than the plan does no harm."""
    for number in range(7):
        result = build(few, tmp_path / "ds", "canny", part=(number, 7), **SMALL)
        assert result.inputs == (0 if number > 4 else 1 if number == 4 else 2)
    condprep.finish(tmp_path / "ds")
    assert tree(tmp_path / "ds") == whole


def test_an_ordinary_build_goes_on_where_parts_stopped(few: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """What parts have built it need not build again, and nothing of them is left."""
    build(few, tmp_path / "ds", "canny", part="1/2", **SMALL)
    assert build(few, tmp_path / "ds", "canny", **SMALL).resumed == 4
    assert tree(tmp_path / "ds") == whole


def test_a_finish_that_is_too_early_names_what_is_missing_and_changes_nothing(few: Path, tmp_path: Path) -> None:
    """Which shards, and which parts they belong to."""
    build(few, tmp_path / "ds", "canny", part="0/3", **SMALL)
    before = tree(tmp_path / "ds")
    with pytest.raises(
        BuildFailed, match=r"3 of the 5 shards .* missing: 1, 2, 4; run --part 1/3, 2/3 again"
    ) as raised:
        condprep.finish(tmp_path / "ds")
    assert raised.value.exit_code == 1
    assert tree(tmp_path / "ds") == before


def test_a_finish_of_nothing_is_told(tmp_path: Path) -> None:
    """A folder in which no build was begun stays as it is."""
    with pytest.raises(UsageError, match="no build was begun"):
        condprep.finish(tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("living_part", "asked", "says"),
    [
        (Part(0, 3), None, r"another process is building .*\(part 0/3\)"),
        (Part(0, 3), "0/3", "another process is building part 0/3"),
        (Part(0, 3), "1/4", "part 0/3 is building .* all parts are of 3"),
        (None, "0/3", "another process is building"),
    ],
)
def test_who_would_be_in_the_way_is_refused(
    few: Path, tmp_path: Path, living_part: Part | None, asked: str | None, says: str
) -> None:
    """A build beside parts, the same part twice, another division, and a part beside a build."""
    with living(tmp_path / "ds", living_part), pytest.raises(DatasetError, match=says):
        build(few, tmp_path / "ds", "canny", part=asked, **SMALL)
    assert not (tmp_path / "ds").exists()


def test_finish_beside_a_part_is_refused(few: Path, tmp_path: Path) -> None:
    """Nothing is put in its place while somebody builds."""
    build(few, tmp_path / "ds", "canny", part="0/1", **SMALL)
    with living(tmp_path / "ds", Part(0, 1)), pytest.raises(DatasetError, match="another process is building"):
        condprep.finish(tmp_path / "ds")
    condprep.finish(tmp_path / "ds")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("3/3", r"counted from 0, so of 3 the last is 2/3; .*--array=0-2"),
        ("x/y", r"^part 'x/y' is not of the form I/N"),
        ("1/0", "0 parts"),
        ("-1/3", "not of the form"),
        ((0, -2), "not of the form"),
        ("1", "not of the form"),
        ("²/3", "not of the form"),
    ],
)
def test_what_is_no_part_is_told(few: Path, tmp_path: Path, part: Any, says: str) -> None:
    """With the value and the remedy, before anything is written."""
    with pytest.raises(UsageError, match=says):
        build(few, tmp_path / "ds", "canny", part=part, **SMALL)
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("option", [{"overwrite": True}, {"retry_rejects": "all"}, {"max_rejects": 0.5}])
def test_what_concerns_the_whole_dataset_is_no_matter_of_a_part(
    few: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    """Each part would delete what the others have made, or judge what it cannot see."""
    with pytest.raises(UsageError, match=r"concerns the whole dataset, and part 0/2 builds a part of it; \w+"):
        build(few, tmp_path / "ds", "canny", part="0/2", **SMALL, **option)


def test_finish_judges_the_rejects_of_all_parts(few: Path, tmp_path: Path) -> None:
    """A share that a single part would exceed, and the whole does not."""
    for number in range(5):
        build(few, tmp_path / "ds", "canny", part=(number, 5), **SMALL)
    with pytest.raises(BuildFailed, match="1 of 9 inputs"):
        condprep.finish(tmp_path / "ds", max_rejects=0.1)
    assert condprep.finish(tmp_path / "ds", max_rejects=0.2).inputs == 9


def test_parts_with_other_options_are_told_what_differs(few: Path, tmp_path: Path) -> None:
    """The plan is one for all parts."""
    build(few, tmp_path / "ds", "canny", part="0/2", **SMALL)
    with pytest.raises(DatasetError, match="resolution: 64 there, 128 now"):
        build(few, tmp_path / "ds", "canny", part="1/2", **SMALL | {"resolution": 128})


def test_a_part_that_does_not_see_the_same_inputs_is_told(few: Path, tmp_path: Path) -> None:
    """A machine on which a picture is missing, or the whole source, builds nothing."""
    build(few, tmp_path / "ds", "canny", part="0/2", **SMALL)
    elsewhere = tmp_path / "few"
    elsewhere.mkdir()
    with pytest.raises(DatasetError, match=r"9 gone \('0.png' \.\.\.\)"):
        build(elsewhere, tmp_path / "ds", "canny", part="1/2", **SMALL)
    with pytest.raises(SourceError, match="nowhere"):
        build(tmp_path / "nowhere", tmp_path / "ds", "canny", part="1/2", **SMALL)
    assert not Layout(tmp_path / "ds").shard(1).exists()


def test_a_mistake_of_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    """No folder with locks in it stays where nothing was begun."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        build(tmp_path / "empty", tmp_path / "ds", "canny", part="0/2", **SMALL)
    assert not (tmp_path / "ds").exists()


def test_who_waits_for_the_plan_hears_of_it_and_goes_on(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that writes the plan says how far it is; when it dies, the next one writes it."""
    layout, seen = Layout(tmp_path / "ds"), list[Progress]()
    layout.private.mkdir(parents=True)
    writing = plan_by_one.InFolder(layout).held()
    told = plan_by_one._telling(writing.__enter__(), lambda _: None)
    told(Progress("list", 77_000, None))
    monkeypatch.setattr(plan_by_one, "SAYS", 0)
    told(Progress("list", 78_000, None))
    monkeypatch.setattr(plan_by_one, "pause", lambda _: writing.__exit__(None, None, None))
    assert build(few, layout.root, "canny", part="0/2", progress=seen.append, **SMALL).inputs == 5
    assert seen[0] == Progress("wait", 78_000, None)
    assert not (layout.private / "plan.lock").exists()


def test_a_plan_that_does_not_come_is_told(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it and how long nothing was heard; what time it is elsewhere does not count."""
    layout = Layout(tmp_path / "ds")
    layout.private.mkdir(parents=True)
    monkeypatch.setattr(plan_by_one, "PATIENCE", -1)
    monkeypatch.setattr(plan_by_one, "pause", lambda _: None)
    with plan_by_one.InFolder(layout).held() as say:
        plan_by_one._telling(say, lambda _: None)
        with pytest.raises(BuildFailed, match=r"does not come: process \d+ on .* has been writing it"):
            build(few, layout.root, "canny", part="0/2", **SMALL)


def test_the_command_says_what_is_next(few: Path, tmp_path: Path, command: Any) -> None:
    """A part ends with how to finish; finish is one command, whose result is that of a build."""
    out = tmp_path / "ds"
    run = command("build", few, "-a", "canny", "-o", out, "--resolution", 64, "--part", "0/1", "--json")
    assert (run.code, run.json["part"]) == (0, "0/1")
    run = command("build", few, "-a", "canny", "-o", out, "--resolution", 64, "--part", "0/1")
    assert f"`condprep finish {out}`" in run.err
    run = command("finish", out, "--json")
    assert (run.code, run.json["inputs"], run.json["part"]) == (0, 9, None)
    assert command("finish", tmp_path / "none").code == 2
    assert json.loads((out / "dataset_dict.json").read_text()) == {"splits": ["train"]}
