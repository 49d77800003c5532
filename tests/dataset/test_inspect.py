"""`condprep inspect`: what a dataset folder tells about itself, whoever wrote it, damaged or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from condprep.dataset.inspect import summarize
from condprep.errors import DatasetError

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
PEOPLE = pa.struct({"people": pa.list_(pa.struct({"pose_keypoints_2d": pa.list_(pa.float32())}))})
SCHEMA = pa.schema(
    {
        "image": IMAGE,
        "text": pa.string(),
        "conditioning_image": IMAGE,
        "width": pa.int32(),
        "height": pa.int32(),
        "transform": pa.list_(pa.float64()),
        "keypoints": PEOPLE,
    }
)


def row(text: Any = "a red circle", size: tuple[int, int] = (512, 512), scale: float = 0.5, people: int = 1) -> dict:
    picture = {"bytes": b"\x89PNG", "path": None}
    persons = [{"pose_keypoints_2d": [1.0, 2.0, 0.5]}] * people
    return {
        "image": picture,
        "text": text,
        "conditioning_image": picture,
        "width": size[0],
        "height": size[1],
        "transform": [scale, 0.0, 0.0, 0.0, scale, 0.0],
        "keypoints": {"people": persons},
    }


def write_arrow(path: Path, rows: list[dict], schema: pa.Schema = SCHEMA, batch: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), schema) as stream:
        for start in range(0, len(rows), batch):
            stream.write_batch(pa.RecordBatch.from_pylist(rows[start : start + batch], schema))
    return path


def finished(root: Path, provenance: Any = None, rejects: list[dict] | None = None) -> Path:
    private = root / ".condprep"
    private.mkdir(parents=True)
    for name in ("plan.json", "done.json"):
        (private / name).write_text("{}")
    if provenance:
        (private / "provenance.json").write_text(json.dumps(provenance))
    lines = "".join(json.dumps(reject) + "\n" for reject in rejects or [])
    (private / "rejects.jsonl").write_text(lines)
    return root


def test_a_dataset_of_ours_is_counted_in_full(tmp_path: Path) -> None:
    """Rows and bytes by split, sizes, captions, enlarged pictures, people, provenance and rejects, over all files."""
    provenance = {"condprep": "1", "annotators": [{"column": "openpose", "licence": "MIT"}]}
    rejects = [
        {"source": "a.jpg", "stage": "decode", "reason": "17 bytes missing", "code": "truncated"},
        {"source": "b.jpg", "stage": "decode", "reason": "4 bytes missing", "code": "truncated"},
        {"source": "c.txt", "stage": "read", "reason": "permission denied", "code": "unreadable-file"},
    ]
    root = finished(tmp_path / "ds", provenance, rejects)
    first = [row("one"), row("one two three", scale=1.5), row("  "), row("", people=0)]
    second = [row("a b", size=(448, 576), people=3), row(None) | {"keypoints": None}]
    a = write_arrow(root / "train" / "data-00000-of-00002.arrow", first)
    b = write_arrow(root / "train" / "data-00001-of-00002.arrow", second)
    c = write_arrow(root / "validation" / "data-00000-of-00001.arrow", [row("a b c d e", scale=1.0)])
    found = summarize(root)
    assert found.rows == {"train": 6, "validation": 1}
    assert found.bytes == {"train": a.stat().st_size + b.stat().st_size, "validation": c.stat().st_size}
    assert found.files == 3
    assert list(found.columns) == SCHEMA.names
    assert (found.columns["image"], found.columns["text"]) == ("image", "string")
    assert found.sizes == {"512 x 512": 6, "448 x 576": 1}
    assert found.captions is not None
    assert (found.captions.missing, found.captions.several, found.captions.words) == (3, 0, (1, 2, 5))
    assert found.enlarged == 1
    assert found.people == {
        "keypoints": {0: 1, 1: 4, 3: 1}
    }  # not of a row that has none, as where an annotator was added and failed
    assert found.provenance == provenance
    assert found.rejects == {"truncated": 2, "unreadable-file": 1}
    assert found.problems == []
    assert json.loads(found.to_json())["sizes"] == found.sizes


def test_several_captions_a_row(tmp_path: Path) -> None:
    """Where captions are lists, a row is missing one only if all are blank, and blanks do not make it several."""
    schema = SCHEMA.set(1, pa.field("text", pa.list_(pa.string())))
    rows = [row(["a", "b c d"]), row([""]), row([]), row(["a", " "]), row(None)]
    write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", rows, schema)
    captions = summarize(tmp_path).captions
    assert captions is not None
    assert (captions.missing, captions.several, captions.words) == (3, 1, (1, 1, 3))


def test_parquet_tells_the_same_as_arrow(tmp_path: Path) -> None:
    """The same rows in the Hub's Parquet layout give the same summary, apart from path and bytes."""
    rows = [row("a b"), row("", people=2), row("c", scale=2.0)]
    write_arrow(tmp_path / "arrow" / "train" / "data-00000-of-00001.arrow", rows[:2])
    write_arrow(tmp_path / "arrow" / "validation" / "data-00000-of-00001.arrow", rows[2:])
    data = tmp_path / "parquet" / "data"
    data.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[:2], SCHEMA), data / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:], SCHEMA), data / "validation-00000-of-00001.parquet")
    one, other = summarize(tmp_path / "arrow"), summarize(tmp_path / "parquet")
    different = {"path", "bytes"}
    assert {k: v for k, v in vars(one).items() if k not in different} == {
        k: v for k, v in vars(other).items() if k not in different
    }


@pytest.mark.parametrize("layout", ["dict", "plain", "parquet", "push"])
def test_datasets_of_others_tell_what_they_can(tmp_path: Path, layout: str) -> None:
    """Whatever `datasets` writes is counted; what it does not tell is None, and a column named like ours is no trap."""
    made = datasets.Dataset.from_dict({"label": [1, 2, 3], "text": [7, 8, 9], "width": ["a", "b", "c"]})
    root = tmp_path / "ds"
    if layout == "dict":
        datasets.DatasetDict(train=made, test=made.select([0])).save_to_disk(root)
    elif layout == "plain":
        made.save_to_disk(root)
        made.map(lambda _: {}, cache_file_name=str(root / "cache-1.arrow"))  # what a later use leaves there
    else:
        root.mkdir()
        made.to_parquet(root / ("train-00000-of-00001.parquet" if layout == "push" else "some.parquet"))
    found = summarize(root)
    assert found.rows == {"train": 3} | ({"test": 1} if layout == "dict" else {})
    assert found.columns == {"label": "int64", "text": "int64", "width": "string"}
    unknown = (found.sizes, found.captions, found.enlarged, found.people, found.provenance, found.rejects)
    assert unknown == (None, None, None, {}, None, None)


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "scribbled"])
def test_a_damaged_file_is_named_and_the_others_counted(tmp_path: Path, suffix: str, damage: str) -> None:
    """A file that was cut, emptied, replaced or overwritten never stops the summary, nor crashes the process."""
    good, bad = (tmp_path / "train" / f"train-0000{n}-of-00002{suffix}" for n in (0, 1))
    rows = [row(f"caption {n}" * 20) for n in range(100)]
    for path in (good, bad):
        path.parent.mkdir(exist_ok=True)
        if suffix == ".arrow":
            write_arrow(path, rows, batch=10)
        else:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    content = bad.read_bytes()
    half = len(content) // 2
    scribbled = content[:half] + b"\xff" * 4000 + content[half + 4000 :]
    bad.write_bytes({"truncated": content[:half], "empty": b"", "text": b"hello " * 99, "scribbled": scribbled}[damage])
    found = summarize(tmp_path)
    assert 100 <= found.rows["train"] < 200
    assert len(found.problems) == 1
    assert str(bad) in found.problems[0]


def test_damaged_notes_are_no_obstacle(tmp_path: Path) -> None:
    """Unreadable lines of rejects.jsonl are counted as such, an unreadable provenance.json is named."""
    root = finished(tmp_path / "ds")
    write_arrow(root / "train" / "data-00000-of-00001.arrow", [row()])
    (root / ".condprep" / "rejects.jsonl").write_text(
        '{"stage": "read", "reason": "gone", "code": "missing-file"}\n{"stage": \n[1]\n'
    )
    (root / ".condprep" / "provenance.json").write_text("{")
    found = summarize(root)
    assert found.rejects == {"a damaged line of rejects.jsonl": 2, "missing-file": 1}
    assert found.provenance is None
    assert "provenance.json" in found.problems[0]


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    """A missing folder, an empty one, one without a readable file, and an unfinished build each say what they are."""
    with pytest.raises(DatasetError, match="no such folder"):
        summarize(tmp_path / "missing")
    with pytest.raises(DatasetError, match="holds no dataset"):
        summarize(tmp_path)
    path = write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", [row()])
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match="is damaged"):
        summarize(tmp_path)
    shutil.rmtree(path.parent)
    write_arrow(finished(tmp_path / "ds") / "train" / "data-00000-of-00001.arrow", [row()])
    (tmp_path / "ds" / ".condprep" / "done.json").unlink()
    with pytest.raises(DatasetError, match="has not finished"):
        summarize(tmp_path / "ds")


@pytest.mark.slow
def test_pictures_are_not_read(tmp_path: Path) -> None:
    """A summary costs the small columns alone: 200 MB of pictures add next to nothing to the process's memory."""
    big = [row() | {"image": {"bytes": bytes(1_000_000), "path": None}}] * 200
    write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", big, batch=10)
    code = (
        "import resource, sys; from condprep.dataset.inspect import summarize\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); rows = summarize(sys.argv[1]).rows['train']; print(rows, peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    rows, kilobytes = map(int, out.split())
    assert rows == 200
    assert kilobytes < 50_000
