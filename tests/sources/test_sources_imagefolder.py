"""The imagefolder source: a metadata file decides, and no line of it, however wrong, stops or escapes."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pictures import encoded, smooth

from condprep.errors import Rejected, SourceError
from condprep.sources import metadata
from condprep.sources.base import Source
from condprep.sources.open import open_source
from condprep.sources.text import MAX_CAPTION

PICTURE = encoded(smooth(8, 8))
FORMATS = ("jsonl", "csv", "parquet")


def write(folder: Path, rows: list[dict[str, Any]], format: str = "jsonl") -> Path:
    """A metadata file of these rows."""
    path = folder / f"metadata.{format}"
    if format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif format == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """raw/ with a.jpg and sub/b.jpg, and a file outside of it."""
    for name in ("raw/a.jpg", "raw/sub/b.jpg", "secret.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PICTURE)
    return tmp_path / "raw"


def listed(source: Source) -> list[tuple[str, str | None]]:
    return [(entry.name, entry.problem) for entry in source.entries()]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_give_pictures_and_captions_in_their_order(folder: Path, format: str) -> None:
    """JSON lines, CSV and Parquet say the same; a missing caption is (), unlisted pictures are no inputs."""
    write(folder, [{"file_name": "sub/b.jpg", "text": 'a "quoted", cat'}, {"file_name": "a.jpg", "text": None}], format)
    source = open_source(folder)
    samples = [source.read(entry) for entry in source.entries()]
    assert [(sample.name, sample.text) for sample in samples] == [("sub/b.jpg", ('a "quoted", cat',)), ("a.jpg", ())]
    assert {sample.data for sample in samples} == {PICTURE}
    assert source.kind == "imagefolder"


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_list_of_captions_is_kept(folder: Path, format: str) -> None:
    """Alternatives stay alternatives, empty ones are dropped, giants are cut."""
    write(folder, [{"file_name": "a.jpg", "text": ["one", " ", "two", "x" * (2 * MAX_CAPTION)]}], format)
    (entry,) = open_source(folder).entries()
    assert entry.text == ("one", "two", "x" * MAX_CAPTION)


def test_captions_are_always_storable_text(folder: Path) -> None:
    """Half a surrogate pair and NUL, which JSON can spell, become something that UTF-8 and Arrow can hold."""
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "a\\ud800b\\u0000c"}')
    (entry,) = open_source(folder).entries()
    assert entry.text == ("a?b\ufffdc",)


@pytest.mark.parametrize("format", FORMATS)
def test_columns_may_have_other_names(folder: Path, format: str) -> None:
    """--image-column and --caption-column; without the latter `caption` stands in for `text`."""
    write(folder, [{"path": "a.jpg", "alt": "cat", "caption": "dog"}], format)
    (entry,) = open_source(folder, image_column="path", caption_column="alt").entries()
    assert (entry.name, entry.text) == ("a.jpg", ("cat",))
    (entry,) = open_source(folder, image_column="path").entries()
    assert entry.text == ("dog",)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "no column 'file_name'"), ({"image_column": "path", "caption_column": "txt"}, "no column 'txt'")],
)
def test_a_column_that_is_not_there_is_an_error_that_lists_those_that_are(folder: Path, options, message: str) -> None:
    """A user's slip is told at once, not as a million rejects."""
    write(folder, [{"path": "a.jpg", "alt": "cat"}])
    with pytest.raises(SourceError, match=f"{message}.*: path, alt"):
        open_source(folder, **options)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "name", ["../secret.jpg", "../../etc/passwd", "sub/../../secret.jpg", "/etc/passwd", "ABSOLUTE"]
)
def test_a_row_never_leaves_the_folder(folder: Path, format: str, name: str) -> None:
    """Relative, absolute, existing or not: a path out of the folder is a problem entry, and cannot be read either."""
    name = str(folder / "a.jpg") if name == "ABSOLUTE" else name
    write(folder, [{"file_name": name, "text": ""}, {"file_name": "a.jpg", "text": "x"}], format)
    source = open_source(folder)
    bad, good = source.entries()
    assert bad.problem == f"{name!r} is outside the folder of metadata.{format}"
    assert (good.name, good.problem) == ("a.jpg", None)
    with pytest.raises(Rejected, match="outside") as rejected:
        source.read(type(good)(name, ""))
    assert rejected.value.stage == "read"


def test_a_link_out_of_the_folder_is_outside(folder: Path) -> None:
    """A link, or a linked folder, that leads out is a problem; one that stays inside is fine."""
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up").symlink_to(folder.parent)
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    write(folder, [{"file_name": name} for name in ("out.jpg", "up/secret.jpg", "in.jpg", "loop.jpg")])
    assert listed(open_source(folder)) == [
        ("metadata.jsonl:1", "'out.jpg' is outside the folder of metadata.jsonl"),
        ("metadata.jsonl:2", "'up/secret.jpg' is outside the folder of metadata.jsonl"),
        ("in.jpg", None),
        ("metadata.jsonl:4", "'loop.jpg' cannot be read: Too many levels of symbolic links"),
    ]


def test_every_bad_line_is_one_problem_entry_with_its_number(folder: Path) -> None:
    """Malformed, of another type, nameless, missing, duplicate, too long: none stops the listing or is dropped."""
    lines = [
        '{"file_name": "a.jpg", "text": "good"}',
        '{"file_name": "a.jpg", ',
        "[1, 2]",
        '{"text": "nameless"}',
        '{"file_name": 7}',
        '{"file_name": "gone.jpg"}',
        "",
        '{"file_name": ".//a.jpg"}',
        '{"file_name": "sub/b.jpg", "text": {"en": "cat"}}',
        '{"file_name": "a\\u0000.jpg"}',
        '{"file_name": "sub"}',
        "[" * 100_000,
        '{"x": "' + "y" * (3 << 20) + '"}',
        '{"file_name": "' + "n" * 5000 + '"}',
        '{"file_name": "\\ud800.jpg"}',
        '{"file_name": "sub/b.jpg"}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    found = listed(open_source(folder))
    assert [name for name, problem in found if problem is None] == ["a.jpg", "sub/b.jpg"]
    problems = {int(name.partition(":")[2]): problem for name, problem in found if problem}
    expected = {
        2: "malformed JSON",
        3: "a JSON list",
        4: "no file_name",
        5: "no file_name",
        6: "'gone.jpg' cannot be read: No such file",
        8: "'a.jpg' was listed before",
        9: "neither a string nor a list",
        10: "is outside the folder",
        11: "not a regular file",
        12: "malformed JSON",
        13: "line longer than 1048576 bytes",
        14: "File name too long",
        15: "is outside the folder",
    }
    assert problems.keys() == expected.keys()
    for line, text in expected.items():
        assert text in problems[line], line


def test_a_separator_within_a_caption_ends_no_line(folder: Path) -> None:
    """JSON lines are lines of the file, whatever separators of Unicode a caption holds: a bad line costs itself alone."""
    lines = [
        json.dumps({"file_name": f"{name}.jpg", "text": "a\u2028b\x85c"}, ensure_ascii=False) for name in ("a", "sub/b")
    ]
    (folder / "metadata.jsonl").write_text("\n".join([lines[0], '{"broken', lines[1]]))
    found = [name for name, _ in listed(open_source(folder))]
    assert found == ["a.jpg", "metadata.jsonl:2", "sub/b.jpg"]


def test_bad_lines_of_csv_are_problems_too(folder: Path) -> None:
    """Too few or too many fields, and a field beyond any caption: one problem each; quoted newlines are no lines."""
    giant = "z" * 200_000
    (folder / "metadata.csv").write_text(
        f'file_name,text\na.jpg,"two\nlines"\na.jpg\na.jpg,b,c\n\nsub/b.jpg,{giant}\nsub/b.jpg,ok\n'
    )
    entries = list(open_source(folder).entries())
    assert [(entry.name, entry.text) for entry in entries if not entry.problem] == [
        ("a.jpg", ("two\nlines",)),
        ("sub/b.jpg", ("ok",)),
    ]
    assert [entry.name for entry in entries if entry.problem] == ["metadata.csv:4", "metadata.csv:5", "metadata.csv:7"]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_listing(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever stands in metadata.jsonl or .csv, listing it ends, and every entry is a problem: nothing here exists."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).write_bytes(data)
        try:
            source = open_source(folder / name)
        except SourceError:
            continue
        assert all(entry.problem for entry in source.entries())


def test_a_damaged_parquet_file_keeps_what_is_before_the_damage(folder: Path) -> None:
    """Rows before are entries, the rest is one problem entry; a file that is no Parquet at all is an error."""
    path = write(
        folder, [{"file_name": "a.jpg", "text": "first"}, {"file_name": "sub/b.jpg", "text": "second"}] * 2, "parquet"
    )
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    found = listed(open_source(folder))
    assert found[-1][1].startswith("damaged from here on")
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"metadata\.parquet is no Parquet file"):
        open_source(folder)


def test_a_split_has_a_metadata_file_of_its_own(folder: Path) -> None:
    """--split names the sub-folder; with several and none named the error lists them; names tell the splits apart."""
    for split in ("train", "test"):
        (folder / split).mkdir()
        (folder / split / "a.jpg").write_bytes(PICTURE)
        write(folder / split, [{"file_name": "a.jpg", "text": split}])
    (entry,) = open_source(folder, "imagefolder", split="train").entries()
    assert (entry.name, entry.text) == ("train/a.jpg", ("train",))
    with pytest.raises(SourceError, match="has the splits test, train; choose one with --split"):
        open_source(folder, "imagefolder")
    with pytest.raises(SourceError, match=r"'dev' is not among the splits in .*: test, train"):
        open_source(folder, "imagefolder", split="dev")
    (folder / "test" / "metadata.jsonl").unlink()
    with pytest.raises(SourceError, match="has the splits test, train; choose one with --split"):
        open_source(folder, "imagefolder")
    assert listed(open_source(folder, split="test")) == [("test/a.jpg", None)]


def test_metadata_that_is_absent_or_twofold_is_an_error(folder: Path) -> None:
    """The message names what was looked for, or what was found."""
    with pytest.raises(SourceError, match=r"no metadata\.jsonl, metadata\.csv or metadata\.parquet"):
        open_source(folder, "imagefolder")
    write(folder, [{"file_name": "a.jpg"}])
    path = write(folder, [{"file_name": "sub/b.jpg"}], "csv")
    with pytest.raises(SourceError, match="give the path of one of them"):
        open_source(folder)
    assert listed(open_source(path)) == [("sub/b.jpg", None)]


def test_the_identity_follows_the_metadata_and_not_its_place(folder: Path) -> None:
    """Another caption is another source; the same folder elsewhere, or pickled, is the same one."""
    write(folder, [{"file_name": "a.jpg", "text": "cat"}])
    before = open_source(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert open_source(moved).identity == before.identity == pickle.loads(pickle.dumps(before)).identity
    json.dumps(before.identity)
    assert str(folder) not in json.dumps(before.identity)
    write(moved, [{"file_name": "a.jpg", "text": "dog"}])
    assert open_source(moved).identity != before.identity


def test_a_long_listing_is_streamed(folder: Path) -> None:
    """Reading a listing of 20 MB never holds more than a line of it."""
    import tracemalloc

    (folder / "metadata.jsonl").write_text(f'{{"file_name": "gone.jpg", "text": "{"x" * 20_000}"}}\n' * 1000)
    tracemalloc.start()
    count = sum(1 for _ in metadata.json_rows(folder / "metadata.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000
    assert peak < 1_000_000
