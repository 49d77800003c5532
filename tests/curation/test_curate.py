"""`condprep.curate`: rows that stay keep their bytes, rows that go have their reason, and a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command import Command
from support.curated import OFFLINE, build_repeats, curate, foreign, foreign_rows, photograph, rejects_of, rows_of
from support.datasets import tree

import condprep
from condprep.curation.drops import KEEP
from condprep.errors import DatasetError, UsageError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repeats(tmp_path_factory.mktemp("curate"))


def test_rows_that_stay_are_what_they_were(built: Path, tmp_path: Path) -> None:
    """Every row of the new dataset is a row of the old one, in order, each column byte for byte; none is there twice."""
    curate(built, tmp_path / "out", ["near-duplicates", "blurry"])
    before, after = rows_of(built), rows_of(tmp_path / "out")
    places = [before.index(row) for row in after]
    assert places == sorted(set(places))
    assert len(after) == 4


def test_nothing_vanishes(built: Path, tmp_path: Path) -> None:
    """inputs = rows + dropped; each dropped row is a reject with its key, its name and its reason, after the build's own."""
    result = curate(built, tmp_path / "out", ["near-duplicates", "blurry"])
    assert result.inputs == 8 == sum(result.rows.values()) + sum(result.dropped.values())
    assert result.dropped == {"near-duplicates": 3, "blurry": 1}
    broken, *dropped = rejects_of(tmp_path / "out")
    assert (broken["source"], broken["stage"]) == ("9-broken.png", "decode")
    keys = {row["key"]: row["source"] for row in rows_of(built)}
    assert {one["stage"] for one in dropped} == {"curate"}
    assert all(keys[one["key"]] == one["source"] for one in dropped)
    assert {one["key"] for one in dropped} | {row["key"] for row in rows_of(tmp_path / "out")} == keys.keys()
    assert sum("blurry: row" in one["reason"] for one in dropped) == 1


def test_one_of_each_group_stays(built: Path, tmp_path: Path) -> None:
    """`first` keeps the first row; `best` none that has another fault; with exact duplicates alone near ones stay."""
    names = {keep: self_and_copies(built, tmp_path / keep, ["near-duplicates"], keep) for keep in KEEP}
    assert names["first"] == ["0.png"]
    assert len(names["best"]) == len(names["largest"]) == 1
    assert "7.jpg" not in names["best"]
    assert self_and_copies(built, tmp_path / "exact", ["duplicates"], "first") == ["0.png", "6-crop.png", "7.jpg"]


def self_and_copies(dataset: Path, out: Path, drop: Sequence[str], keep: str) -> list[str]:
    curate(dataset, out, drop, keep=keep)
    return [row["source"] for row in rows_of(out) if row["source"][0] in "0567"]


def test_the_result_is_a_dataset_of_condprep(built: Path, tmp_path: Path) -> None:
    """It loads, is inspected, is clean, says what was done to it, makes the same maps, and takes further columns."""
    from datasets import load_from_disk

    out = tmp_path / "out"
    curate(built, out, ["near-duplicates", "blurry"])
    assert load_from_disk(str(out))["train"].num_rows == 4
    assert {one.rule for one in condprep.verify(out, weights=OFFLINE).findings} == {"no-caption"}
    provenance = json.loads((out / ".condprep" / "provenance.json").read_text())
    assert provenance["curation"][0]["drop"] == ["near-duplicates", "blurry"]
    assert provenance["counts"]["rows"] == {"train": 4}
    assert "Curated, which left out: blurry 1, near-duplicates 3." in (out / "README.md").read_text()
    assert sum(provenance["counts"]["rejects"].values()) == 5
    annotated = condprep.annotate([Image.fromarray(photograph(1))], like=out)[0]
    assert annotated.maps["canny"].size == (160, 160)
    assert condprep.add_columns(out, "canny:random").rows == {"train": 4}


def test_a_stopped_run_goes_on(built: Path, tmp_path: Path) -> None:
    """Stopped after any row, the same call ends in the very dataset of a run that was not stopped, and verifies once."""
    whole = tmp_path / "whole"
    curate(built, whole, ["near-duplicates"])
    for after in (1, 4, 7):
        out = tmp_path / f"stopped{after}"

        def stop(state: Any, after: int = after) -> None:
            if state.stage == "build" and state.done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            curate(built, out, ["near-duplicates"], progress=stop)
        seen: list[Any] = []
        result = curate(built, out, ["near-duplicates"], progress=seen.append)
        assert "verify" not in {state.stage for state in seen}
        assert result.resumed == after // 3 * 3
        for name, content in tree(whole).items():
            if not name.startswith((".condprep/source.verify", ".condprep/plan")):
                assert tree(out)[name] == content, name


def test_other_wishes_are_refused(built: Path, tmp_path: Path) -> None:
    """On a finished dataset the same call does nothing, another says what differs, --overwrite starts afresh."""
    out = tmp_path / "out"
    first = curate(built, out, ["blurry"])
    before = tree(out)
    again = curate(built, out, ["blurry"])
    assert (again.resumed, again.rows, again.dropped) == (8, first.rows, first.dropped)
    assert tree(out) == before
    with pytest.raises(DatasetError, match="begun with other settings"):
        curate(built, out, ["blurry", "dark"])
    assert curate(built, out, ["duplicates"], overwrite=True).dropped == {"duplicates": 1}
    with pytest.raises(DatasetError, match="begun with other settings"):
        condprep.build(built.parent / "raw", out, "canny")


def test_folders_of_others_are_left_alone(built: Path, tmp_path: Path) -> None:
    """A folder with other things in it is refused, and so is the dataset itself; both stay as they are."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for out in (tmp_path / "mine", built):
        before = tree(out)
        with pytest.raises(UsageError):
            curate(built, out, ["blurry"], overwrite=True)
        assert tree(out) == before


@pytest.mark.parametrize(
    ("drop", "how", "message"),
    [
        ([], {}, "nothing is to be done"),
        (["blury"], {}, "did you mean blurry"),
        (["blurry"], {"keep": "worst"}, "best, first, largest"),
        (["blurry"], {"settings": {"curation": {"min_sharp": 1}}}, "did you mean min_sharpness"),
    ],
)
def test_mistakes_are_named(built: Path, tmp_path: Path, drop: list[str], how: dict[str, Any], message: str) -> None:
    """A wish that cannot be is an error of usage with its remedy, and leaves no folder."""
    with pytest.raises(UsageError, match=message):
        curate(built, tmp_path / "out", drop, **how)
    assert not (tmp_path / "out").exists()


def test_json_and_exit_codes(command: Command, built: Path, tmp_path: Path) -> None:
    """`curate --json` prints the result and nothing else; 0 done, 1 no row left, 2 misuse."""
    ended = command("curate", built, "--out", tmp_path / "out", "--drop", "near-duplicates,blurry", "--json")
    assert ended.code == 0
    assert ended.json["inputs"] == 8
    assert ended.json["dropped"] == {"near-duplicates": 3, "blurry": 1}
    assert command("curate", built, "--out", tmp_path / "x", "--drop", "blury").code == 2
    marked_up = foreign(foreign_rows(built)[:1], tmp_path / "one.parquet")
    assert command("curate", marked_up, "--out", tmp_path / "none", "--drop", "markup").code == 1
    words = command("curate", built, "--out", tmp_path / "out", "--drop", "near-duplicates", "--drop", "blurry")
    assert "8 = 4 rows + 4 dropped" in words.out
    assert "8 done before" in words.out


def test_a_dry_run_tells_what_would_be_and_writes_nothing(built: Path, tmp_path: Path, command: Command) -> None:
    """It counts what the real run counts, by split and name, needs no --out, and leaves no file behind."""
    files = tree(built)
    asked = ["near-duplicates", "blurry"]
    told = condprep.curate(built, None, asked, dry_run=True, weights=OFFLINE)
    made = curate(built, tmp_path / "out", asked)
    assert (told.inputs, told.rows, told.dropped) == (made.inputs, made.rows, made.dropped)
    ended = command("curate", built, "--drop", "near-duplicates,blurry", "--dry-run", "--json")
    assert (ended.code, ended.json["dropped"]) == (0, dict(made.dropped))
    assert tree(built) == files
    assert not Path(f"{built}-curated").exists()
    with pytest.raises(UsageError, match="give out for the new dataset, or dry_run=True"):
        condprep.curate(built, None, asked)
