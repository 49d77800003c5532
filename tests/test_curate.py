"""`condprep.curate`: rows that stay keep their bytes, rows that go have their reason, and a stopped run goes on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tree
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, with_orientation
from PIL import Image
from test_cli import Command, command  # noqa: F401
from test_docs import DOCS, section, tables, ticked

import condprep
from condprep.checks import groups
from condprep.checks.base import Finding
from condprep.drops import ALL, DROPS, KEEP, decide
from condprep.errors import BuildFailed, DatasetError, UsageError
from condprep.repairs import REPAIRS, repair_of
from condprep.shards import IMAGE
from condprep.stored import files
from condprep.weights import Weights

OFFLINE = Weights(offline=True, say=lambda _: None)


def photograph(number: int) -> np.ndarray:
    """(160, 160, 3): another piece of a photograph for each number."""
    from skimage import data

    picture = (data.astronaut, data.coffee, data.rocket)[number % 3]()
    y, x = 37 * number % 200, 53 * number % 300
    return cv2.resize(picture[y : y + 200, x : x + 200], (160, 160), interpolation=cv2.INTER_AREA)


def picture_files(folder: Path) -> None:
    """Four photographs; copies of the first: exact, cropped, as a JPEG of quality 40; a blurred one."""
    folder.mkdir()
    for number in (0, 1, 2, 4):
        Image.fromarray(photograph(number)).save(folder / f"{number}.png")
    first = photograph(0)
    Image.fromarray(first).save(folder / "5-copy.png")
    Image.fromarray(cv2.resize(first[6:, 4:], (160, 160))).save(folder / "6-crop.png")
    Image.fromarray(first).save(folder / "7.jpg", quality=40)
    Image.fromarray(cv2.GaussianBlur(photograph(7), (0, 0), 3)).save(folder / "8-blurred.png")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curate")
    picture_files(folder / "raw")
    (folder / "raw" / "9-broken.png").write_text("no picture")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=160, shard_rows=3)
    return folder / "ds"


def rows_of(dataset: Path) -> list[dict[str, Any]]:
    return [row for file in files(dataset) for row in read(file.path)]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with pa.memory_map(str(path)) as source:
        return list(pa.ipc.open_stream(source).read_all().to_pylist())


def rejects_of(dataset: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset / ".condprep" / "rejects.jsonl").read_text().splitlines()]


def curate(dataset: Path, out: Path, drop: Sequence[str], **how: Any) -> Any:
    return condprep.curate(dataset, out, drop, **{"weights": OFFLINE} | how)


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


def foreign(rows: list[dict[str, Any]], path: Path) -> Path:
    """A Parquet dataset that condprep did not make, with a column of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"image": IMAGE, "caption": pa.string(), "canny": IMAGE, "score": pa.float32()}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(fields.items()))), path)
    return path


def foreign_rows(dataset: Path) -> list[dict[str, Any]]:
    return [
        {
            "image": row["image"] | {"path": f"{n}.png"},
            "caption": f"<b>{n}</b>",
            "canny": row["conditioning_image"],
            "score": n / 2,
        }
        for n, row in enumerate(rows_of(dataset))
    ]


def test_a_dataset_of_others(built: Path, tmp_path: Path) -> None:
    """Any Parquet dataset: its own columns come along, captions with markup can be dropped, and it loads again."""
    from datasets import load_dataset

    rows = foreign_rows(built)
    rows[2]["caption"] = "a plain caption"
    folder = foreign(rows, tmp_path / "theirs" / "data" / "train-00000-of-00001.parquet").parents[1]
    result = curate(folder, tmp_path / "out", ["markup"])
    assert result.dropped == {"markup": 7}
    assert rows_of(tmp_path / "out") == [rows[2]]
    assert load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"][0]["score"] == 1.0
    with pytest.raises(UsageError):
        condprep.add_columns(tmp_path / "out", "canny")


def test_leaks_between_splits(built: Path, tmp_path: Path) -> None:
    """A validation row that repeats a training row, exactly or nearly, is found and dropped; the training row stays."""
    rows = foreign_rows(built)
    first = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "0.png")
    near = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "6-crop.png")
    other = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "4.png")
    data = tmp_path / "theirs" / "data"
    foreign([rows[first], rows[1 if first != 1 else 2]], data / "train-00000-of-00001.parquet")
    foreign([rows[near], rows[first], rows[other]], data / "validation-00000-of-00001.parquet")
    found = [one for one in condprep.verify(data.parent, weights=OFFLINE).findings if one.rule == "leak"]
    assert [(one.row, one.twin) for one in found] == [(2, 0), (3, 0)]
    result = curate(data.parent, tmp_path / "out", ["leaks"])
    assert result.rows == {"train": 2, "validation": 1}


def test_a_damaged_file_is_named_and_the_others_are_copied(built: Path, tmp_path: Path) -> None:
    """Of a dataset with a cut file, the other files' rows are copied, and a note says which file it is."""
    broken = tmp_path / "ds"
    shutil.copytree(built, broken)
    victim = sorted(broken.glob("train/*.arrow"))[1]
    victim.write_bytes(victim.read_bytes()[:2000])
    result = curate(broken, tmp_path / "out", ["dark"])
    assert result.rows == {"train": 5}
    assert any(victim.name in note for note in result.notes)


def test_pictures_that_are_paths_become_bytes(built: Path, tmp_path: Path) -> None:
    """Pictures stored as paths below the dataset are embedded: the new folder has no such files. Paths out of it are not."""
    rows = foreign_rows(built)
    (tmp_path / "secret.png").write_bytes(rows[0]["image"]["bytes"])
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.png").write_bytes(rows[1]["image"]["bytes"])
    rows[1]["image"]["path"] = None
    inside = rows[1] | {"image": {"bytes": None, "path": "a.png"}}
    outside = rows[1] | {"image": {"bytes": None, "path": "../secret.png"}}
    foreign([inside, outside], folder / "rows.parquet")
    curate(folder, tmp_path / "out", ["dark"])
    first, second = rows_of(tmp_path / "out")
    assert first == rows[1]
    assert second["image"]["bytes"] is None


def test_loose_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """Two folders of pictures have no rows to copy: the message says how to make some."""
    for name in ("image", "canny"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        Image.fromarray(photograph(1)).save(tmp_path / "pairs" / name / "1.png")
    with pytest.raises(UsageError, match="condprep build"):
        curate(tmp_path / "pairs", tmp_path / "out", ["blurry"])


def test_zero_rows_one_row_and_none_left(built: Path, tmp_path: Path) -> None:
    """0 rows are an error of usage; one row is copied; that none is left is said, and leaves a dataset without rows."""
    with pytest.raises(UsageError, match="0 rows"):
        curate(foreign([], tmp_path / "none.parquet"), tmp_path / "a", ["blurry"])
    one = foreign(foreign_rows(built)[:1], tmp_path / "one.parquet")
    assert curate(one, tmp_path / "b", ["blurry"]).rows == {"train": 1}
    with pytest.raises(BuildFailed, match="none of the 1 rows"):
        curate(one, tmp_path / "c", ["markup"])


def test_maps_are_made_again(built: Path, tmp_path: Path) -> None:
    """--fix: maps that were flipped, inverted or swapped become those of the build again, byte for byte; others keep theirs."""
    broken = tmp_path / "ds"
    shutil.copytree(built, broken)
    before = rows_of(built)
    wrong = [dict(row) for row in before]
    for number, change in ((1, lambda m: m[:, ::-1]), (2, lambda m: 255 - m)):
        pixels = np.array(Image.open(io.BytesIO(before[number]["conditioning_image"]["bytes"])).convert("L"))
        wrong[number]["conditioning_image"] = {
            "bytes": encoded(np.ascontiguousarray(change(pixels)), "PNG"),
            "path": None,
        }
    rewrite(broken, wrong)
    result = curate(broken, tmp_path / "out", [], fix=True)
    assert result.repaired == {"map made again": 2}
    assert result.dropped == {}
    assert rows_of(tmp_path / "out") == before
    said = (tmp_path / "out" / ".condprep" / "repairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in said] == [{"row": n, "repair": "map made again"} for n in (1, 2)]


def rewrite(dataset: Path, rows: list[dict[str, Any]]) -> None:
    """Other rows into the files of a dataset."""
    for file in files(dataset):
        with pa.memory_map(str(file.path)) as source:
            table = pa.ipc.open_stream(source).read_all()
        count, schema = len(table), table.schema
        del table
        with pa.ipc.new_stream(str(file.path), schema) as sink:
            sink.write_table(pa.Table.from_pylist(rows[:count], schema))
        rows = rows[count:]


def test_turns_are_baked_in(tmp_path: Path) -> None:
    """--fix: a picture that EXIF turns and whose map was made before becomes an upright pair; where it cannot be told, it stays."""
    stored = cv2.resize(photograph(1), (160, 96))
    edges = cv2.Canny(stored, 100, 200)
    turned = {"bytes": with_orientation(stored, "JPEG", 6, quality=95), "path": None}
    square = {"bytes": with_orientation(photograph(2), "JPEG", 6, quality=95), "path": None}
    flat = {"bytes": encoded(cv2.Canny(photograph(2), 100, 200), "PNG"), "path": None}
    rows = [
        {"image": turned, "caption": "one", "canny": {"bytes": encoded(edges, "PNG"), "path": None}, "score": 0.0},
        {"image": square, "caption": "two", "canny": flat, "score": 0.0},
    ]
    result = curate(foreign(rows, tmp_path / "rows.parquet"), tmp_path / "out", [], fix=True)
    first, second = rows_of(tmp_path / "out")
    image, edge = (Image.open(io.BytesIO(first[name]["bytes"])) for name in ("image", "canny"))
    assert image.size == edge.size == (96, 160)
    assert image.getexif().get(0x0112) is None
    assert np.array_equal(np.array(edge), np.rot90(edges, -1))
    assert second == rows[1]
    assert result.repaired == {"turned upright": 1}
    assert "1 rows could not be repaired" in result.notes


def test_json_and_exit_codes(command: Command, built: Path, tmp_path: Path) -> None:  # noqa: F811
    """`curate --json` prints the result and nothing else; 0 done, 1 no row left, 2 misuse."""
    ended = command("curate", built, "--out", tmp_path / "out", "--drop", "near-duplicates,blurry", "--json")
    assert ended.code == 0
    assert ended.json["inputs"] == 8
    assert ended.json["dropped"] == {"near-duplicates": 3, "blurry": 1}
    assert command("curate", built, "--out", tmp_path / "x", "--drop", "blury").code == 2
    words = command("curate", built, "--out", tmp_path / "out", "--drop", "near-duplicates", "--drop", "blurry")
    assert "8 = 4 rows + 4 dropped" in words.out
    assert "8 done before" in words.out


@st.composite
def star_findings(draw: st.DrawFn) -> list[Finding]:
    """Findings of 20 rows: repeats of earlier rows, and other faults."""
    found = []
    for row in range(1, 20):
        if (twin := draw(st.none() | st.integers(0, row - 1))) is not None:
            rule = draw(st.sampled_from(["duplicate", "near-duplicate"]))
            found.append(Finding(row, "", "curation", rule, "warning", "", twin))
    blurred = draw(st.sets(st.integers(0, 19)))
    return [*found, *(Finding(row, "", "curation", "blurred", "warning", "soft") for row in blurred)]


@settings(max_examples=100, deadline=None)
@given(findings=star_findings(), keep=st.sampled_from(KEEP), names=st.permutations(["near-duplicates", "blurry"]))
def test_a_group_keeps_exactly_one(
    tmp_path_factory: pytest.TempPathFactory, findings: list[Finding], keep: Any, names: list[str]
) -> None:
    """Of rows that are linked by repeats one stays, or none where all have the other fault; no row goes without a reason."""
    scores = tmp_path_factory.getbasetemp() / "scores.parquet"
    if not scores.exists():
        sizes = {"image_width": [64 + n % 3 for n in range(20)], "image_height": [64] * 20, "sharpness": [0.5] * 20}
        pq.write_table(pa.table(sizes), scores)
    drops = decide(findings, names, keep, scores)
    root = list(range(20))
    for one in findings:
        if one.twin is not None and one.row is not None:
            root[one.row] = root[one.twin]
    blurred = {one.row for one in findings if one.rule == "blurred"}
    for group in {n: [row for row in range(20) if root[row] == n] for n in root}.values():
        left = [row for row in group if row not in drops]
        assert len(left) == (0 if set(group) <= blurred else 1)
        if keep == "first" and left:
            assert left[0] == min(row for row in group if row not in blurred)
    assert blurred <= drops.keys()
    assert all(drop.reason and drop.name in names for drop in drops.values())


def test_every_name_means_rules_that_there_are() -> None:
    """What can be dropped or repaired is a rule of a check; every rule of curation about single rows can be dropped."""
    rules = {(group.name, rule.name) for group in groups() for rule in (*group.checks, *group.fresh_surveys())}
    checks = {check for check, _ in rules}
    for named in (*DROPS.values(), *REPAIRS.values()):
        assert all((check in checks) if rule == ALL else ((check, rule) in rules) for check, rule in named)
    about_datasets = {("curation", "repeated-caption"), ("curation", "boilerplate")}
    dropped = {rule for named in DROPS.values() for rule in named}
    assert {rule for rule in rules if rule[0] == "curation"} - about_datasets <= dropped
    assert repair_of(Finding(1, "", "alignment", "shifted", "error", ""), annotated=False) is None


def test_the_names_are_documented() -> None:
    """docs/curate.md has every name with the rules that it stands for."""
    rows = tables(section(DOCS / "curate.md", "## What can be dropped"))[0]
    documented = {ticked(name)[0]: ticked(rules) for name, rules, _ in rows}
    assert documented == {
        name: [check if rule == ALL else rule for check, rule in rules] for name, rules in DROPS.items()
    }
