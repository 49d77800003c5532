"""Odd but possible values end in an error that names them."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.pictures import encoded, smooth
from support.thorough import slow_ones
from support.trainings import RECORDED

import condprep
from condprep.annotators.registry import check_device
from condprep.building.options import parse_shard_size
from condprep.cli import console, terminal
from condprep.dataset.arrow import IMAGE
from condprep.dataset.contact_sheet import sheet
from condprep.dataset.inspect import summarize
from condprep.dataset.layout import Layout
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import AnnotatorError, CondprepError, DatasetError, UsageError
from condprep.runtime.files import commit_json, read_json
from condprep.verification.findings import kept_result
from trainer.errors import TrainingStopped
from trainer.inference.export import card, condition_record, save_result, unsaid


@pytest.mark.parametrize("text", ["²", "1²MB", "٣", "", ",", "1e3", "-5", "０"])
def test_sizes_are_written_in_ascii_digits(text: str) -> None:
    """Digits that Python's int() refuses, or that are of another script, are no size of a shard."""
    with pytest.raises(UsageError, match="--shard-size"):
        parse_shard_size(text)


# values in tables


def table(path: Path, **columns: pa.Array) -> Path:
    """A Parquet file of pairs, some of whose columns are odd."""
    picture = {"bytes": encoded(smooth(64, 64)), "path": None}
    sound = {"image": pa.array([picture] * 2, IMAGE), "conditioning_image": pa.array([picture] * 2, IMAGE)}
    pq.write_table(pa.table(sound | columns), path)
    return path


LATE = pa.array([2**62, 0], pa.timestamp("us"))  # years after 9999, of which Python has none
ODD_COLUMNS = {
    "numbers for pictures": {"image": pa.array([3, 4])},
    "lists for paths": {"image": pa.array([[["a"]], [["b"]]])},
    "a caption that is late": {"text": LATE},
    "a key that is late": {"key": LATE},
    "a key that is a timestamp": {"key": pa.array([0, 1], pa.timestamp("s"))},
    "no transform": {"transform": pa.nulls(2, pa.list_(pa.float64()))},
    "transforms of nothing": {"transform": pa.array([[None] * 6, [float("nan")]], pa.list_(pa.float64()))},
    "bytes that are a number": {"file": pa.array([{"bytes": 3, "name": "a"}] * 2)},
    "short keypoints": {"keypoints": pa.array([{"people": [{"pose": [1.0]}]}] * 2)},
    "keypoints that are no numbers": {"keypoints": pa.array([{"people": [{"pose": [float("nan")] * 54}]}] * 2)},
}


@pytest.mark.parametrize("odd", ODD_COLUMNS)
def test_odd_columns_end_in_words(tmp_path: Path, odd: str) -> None:
    """verify, inspect, report and curate of tables whose values are of other types: a finding or an error, by name."""
    path = table(tmp_path / "train-00000-of-00001.parquet", **ODD_COLUMNS[odd])
    for act in (
        lambda: condprep.verify(path, checks=["structure", "condition"]),
        lambda: summarize(tmp_path),
        lambda: condprep.report(path, tmp_path / "page.html"),
        lambda: condprep.curate(path, tmp_path / "out", "flat"),
    ):
        with suppress(CondprepError):
            act()


def test_what_python_has_no_value_for_is_copied_as_it_is(tmp_path: Path) -> None:
    """Years after 9999, spans, nested ones: curate copies them to the last bit, and a sheet shows what it can."""
    odd = {"taken": LATE, "spans": LATE.cast(pa.int64()).cast(pa.duration("us"))}
    odd["nested"] = pa.StructArray.from_arrays([LATE, pa.array([None, 1.5])], ["late", "number"])
    (tmp_path / "odd").mkdir()
    table(tmp_path / "odd" / "train-00000-of-00001.parquet", **odd)
    condprep.curate(tmp_path / "odd", tmp_path / "out", fix=True)
    (copied,) = (tmp_path / "out" / "data").glob("*.parquet")
    found = pq.read_table(copied)
    assert {name: found[name].combine_chunks() for name in odd} == odd
    sheet(tmp_path / "out", tmp_path / "sheet.png", cell=64)


@pytest.mark.parametrize("name", ["train.arrow", "train.parquet"])
def test_a_pipe_among_tables_is_waited_for_by_nobody(tmp_path: Path, name: str) -> None:
    """It is named, instead of hanging for ever."""
    os.mkfifo(tmp_path / name)
    for act in (summarize, condprep.verify, lambda path: condprep.build(path, tmp_path / "out", "canny")):
        with pytest.raises(CondprepError):
            act(tmp_path)


def test_yaml_that_stands_for_a_billion_is_refused(tmp_path: Path) -> None:
    """Forty lines of a README, each of which repeats the one before it twice."""
    table(tmp_path / "train-00000-of-00001.parquet")
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)), "configs: *a39"]
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "---"]))
    with pytest.raises(CondprepError, match="more than 10 aliases"):
        condprep.verify(tmp_path)


def test_doubled_columns_are_named(tmp_path: Path) -> None:
    """Two columns of one name: which is meant cannot be known."""
    picture = pa.array([{"bytes": b"", "path": None}], IMAGE)
    schema = pa.schema([("image", IMAGE), ("image", IMAGE), ("conditioning_image", IMAGE)])
    with pa.ipc.new_stream(str(tmp_path / "1.arrow"), schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays([picture] * 3, schema=schema))
    with pytest.raises(DatasetError, match="two columns called 'image'"):
        condprep.verify(tmp_path / "1.arrow")


# records


ODD = b'{"config": {"requested": {"options": [], "source": 1}}, "inputs": "x", "shard_rows": 0, "listing": null}'
RECORDS: list[Any] = ["a pipe", "sparse", b"{}", b"[" * 100_000, b'{"config": 3}']
RECORDS += slow_ones([b"", b"[]", b"null", b"\xff\xfe", b'{"files": [{}]}', ODD])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of condprep."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "raw").mkdir()
    (folder / "raw" / "1.png").write_bytes(encoded(smooth(64, 64), "PNG"))
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=64)
    return folder


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: repr(record[:20]))
@pytest.mark.parametrize("name", ["plan.json", "provenance.json", "done.json", "rejects.jsonl"])
def test_damaged_records_end_in_words(tmp_path: Path, ours: Path, name: str, record: bytes | str) -> None:
    """Whatever lies where a record should be, 8 GB of nothing and pipes among it: every verb ends, in words or as it should."""
    shutil.copytree(ours, tmp_path / "x")
    dataset = tmp_path / "x" / "ds"
    path = dataset / ".condprep" / name
    path.unlink()
    if record == "a pipe":
        os.mkfifo(path)
    elif record == "sparse":
        with path.open("wb") as file:
            file.truncate(8 << 30)
    else:
        path.write_bytes(record)  # type: ignore[arg-type]
    for act in (
        lambda: condprep.build(tmp_path / "x" / "raw", dataset, "canny", resolution=64),
        lambda: condprep.add_columns(dataset, "canny:random"),
        lambda: condprep.curate(dataset, tmp_path / "out", "duplicates"),
        lambda: condprep.annotate([tmp_path / "x" / "raw" / "1.png"], like=dataset),
        lambda: summarize(dataset),
        lambda: condition_record(dataset, ["canny"], [None], 64),
    ):
        with suppress(CondprepError):
            act()


def test_findings_that_were_taken_out_are_made_again(tmp_path: Path, ours: Path) -> None:
    """A dataset that ships its own findings, fewer than there are, or those of other scores: they are not believed."""
    shutil.copytree(ours / "ds", tmp_path / "ds")
    spoiled = table(tmp_path / "ds" / "train" / "1.parquet")
    result = condprep.verify(spoiled)
    assert result.findings
    stamp = open_pairs(spoiled).stamp
    columns = dict.fromkeys(("image", "condition", "caption"))
    assert kept_result("ds", result.scores, stamp, columns) is not None
    kept = result.scores.with_suffix(".findings.json")
    whole = read_json(kept)
    for changed in ({"findings": []}, {"notes": ["all is well"]}, {"rows": 10**9}, {"seal": "0" * 64}):
        commit_json(kept, whole | changed)
        assert kept_result("ds", result.scores, stamp, columns) is None
    commit_json(kept, whole)
    result.scores.write_bytes(b"")
    assert kept_result("ds", result.scores, stamp, columns) is None


# what is shown


def test_nothing_of_others_moves_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Escape characters, turned writing and bytes that are no UTF-8, in notes, errors, tables and JSON: spelled out."""
    odd = "a\x1b]0;owned\x07\x9b2J\u202etxt\udcff[bold]b"
    console.say(odd)
    console.fail(odd)
    console.show_facts([(odd, odd)])
    terminal.out.print(terminal.escape(odd))
    console.print_json({odd: odd})
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\udcff"} & {*out, *err}
    assert "\\x1b]0;owned" in err
    assert json.loads(out[out.index("{") :]) == {odd: odd}


def test_cards_hold_no_markup_of_others(tmp_path: Path, ours: Path) -> None:
    """A licence, a parameter, a file of weights: in a model card and in a dataset's, each is a word, and one line."""
    odd = "free</td><script>alert(1)</script>\n\n# Owned [x](http://x) `code` | more"
    shutil.copytree(ours / "ds", tmp_path / "ds")
    layout = Layout(tmp_path / "ds")
    recorded = read_json(layout.private / "provenance.json")
    recorded["annotators"][0] |= {"licence": odd, "parameters": {odd: odd}, "weights": {odd: odd}}
    commit_json(layout.private / "provenance.json", recorded)
    condprep.add_columns(tmp_path / "ds", "canny:random")
    (tmp_path / "recipe.toml").write_text("")
    made = card(tmp_path, RECORDED, condition_record(tmp_path / "ds", ["canny"], [None], 64))
    for text in ((tmp_path / "ds" / "README.md").read_text(), made):
        assert "<script>" not in text.replace("\\<script", "")
        assert "\n# Owned" not in text
        assert " [x](http" not in text


@pytest.mark.parametrize("change", [{"licence": None}, {"parameters": None}, {"weights": None}, {"params": None}])
def test_a_provenance_that_lacks_something_is_no_trouble_after_the_training(
    tmp_path: Path, ours: Path, change: dict[str, None]
) -> None:
    """No licence, null parameters: the result says that it is not known, instead of ending after hours in a stack trace."""
    shutil.copytree(ours / "ds", tmp_path / "ds")
    path = tmp_path / "ds" / ".condprep" / "provenance.json"
    recorded = read_json(path)
    recorded["annotators"][0] |= change
    if "licence" in change:
        del recorded["annotators"][0]["licence"]
    commit_json(path, recorded)
    (tmp_path / "recipe.toml").write_text("")
    condition = condition_record(tmp_path / "ds", ["canny"], [None], 64)
    made = card(tmp_path, RECORDED, condition)
    assert "Conditions: canny" in made
    assert ("licence unknown" in made) == ("licence" in change) == bool(unsaid(tmp_path / "ds", condition))
    summarize(tmp_path / "ds")


def test_a_full_disk_after_the_training_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result that cannot be written: what is missing, and that the same command writes it without training again."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    layer = torch.nn.Linear(2, 2)
    monkeypatch.setattr("condprep.runtime.files._fsync_new", full)
    with pytest.raises(TrainingStopped, match=r"No space left on device.*without training again"):
        save_result(tmp_path, layer, [torch.ones(2, 2), torch.ones(2)], None, {}, {})  # type: ignore[arg-type]


# what is asked for


@pytest.mark.parametrize("share", [float("nan"), -0.1, 1.5, float("inf")])
def test_a_share_of_rejects_is_one(tmp_path: Path, share: float) -> None:
    """Not a number is above no number of rejects: it is refused, as is what is no share."""
    with pytest.raises(UsageError, match="max_rejects"):
        condprep.build(tmp_path, tmp_path / "out", "canny", max_rejects=share)


def test_no_source_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty name, as of a variable that is not set, builds nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="names nothing"):
        condprep.build("", tmp_path / "out", "canny")


def test_a_device_that_computes_nothing_is_refused() -> None:
    """torch's device without memory gives maps without values."""
    with pytest.raises(AnnotatorError, match="computes nothing"):
        check_device("meta")
