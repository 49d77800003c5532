"""What lies in a source and is not read, or not as it stands, is counted and named; captions change in no silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.pictures import encoded, smooth

import condprep
from condprep.cli.build import show_build
from condprep.sources.metadata import csv_rows, json_rows, parquet_rows
from condprep.sources.open import open_source
from condprep.sources.text import UNTOLD, read_captions, read_values
from condprep.types import KINDS, NAMED, Notes

PICTURE = encoded(smooth(64, 64))


def put(folder: Path, *names: str, data: bytes = PICTURE) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def said(source: object) -> dict[str, list[str]]:
    notes = Notes()
    list(source.entries(notes))
    return {kind: noted["names"] for kind, noted in notes.found.items()}


def test_files_that_are_not_read_are_named_by_kind(tmp_path: Path) -> None:
    """By extension, hidden ones together, listings with the remedy; the caption file of a picture is read, and no other text."""
    put(
        tmp_path,
        "a.jpg",
        "a.txt",
        "b.txt",
        "x.zip",
        "sub/y.ZIP",
        ".hidden",
        "Thumbs.db",
        "@eaDir/z.jpg",
        "captions.csv",
        "c.PSD",
    )
    assert said(open_source(tmp_path)) == {
        "skipped: .txt": ["b.txt"],
        "skipped: .zip (give its path as the source to read it)": ["x.zip", "sub/y.ZIP"],
        "skipped: hidden files and folders, and those of the system": [".hidden", "@eaDir/", "Thumbs.db"],
        "not used: a listing; give its path as the source to read it": ["captions.csv"],
        "skipped: .psd": ["c.PSD"],
    }


def test_heic_without_its_reader_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, it is an input."""
    put(tmp_path, "a.heic", "b.jxl", "c.jpg")
    monkeypatch.setattr("condprep.sources.kinds.is_installed", lambda package: package == "pillow_jxl")
    source = open_source(tmp_path)
    assert [entry.name for entry in source.entries()] == ["b.jxl", "c.jpg"]
    assert said(source) == {"skipped: .heic (read with pip install 'condprep[heif]')": ["a.heic"]}


def test_pictures_that_no_row_names_and_metadata_of_no_split_are_named(tmp_path: Path) -> None:
    """An imagefolder says what it left."""
    for split in ("train", "test"):
        put(tmp_path, f"{split}/a.jpg", f"{split}/b.jpg")
        put(tmp_path, f"{split}/metadata.jsonl", data=b'{"file_name": "a.jpg", "text": "x"}')
    put(tmp_path, "metadata.csv", data=b"file_name,text\ntrain/a.jpg,other\n")
    assert said(open_source(tmp_path, split="train")) == {
        "not used: a metadata file of no split; give its path as the source to read it": ["metadata.csv"],
        "left out: pictures of other splits": ["test/a.jpg", "test/b.jpg"],
        "left out: pictures that no listing names": ["train/b.jpg"],
    }


def test_metadata_above_the_splits_gives_its_captions_to_each(tmp_path: Path) -> None:
    """Rows of other splits stay out; pictures of the split have their captions."""
    put(tmp_path, "train/a.jpg", "test/b.jpg")
    put(tmp_path, "metadata.csv", data=b"file_name,text\ntrain/a.jpg,one\ntest/b.jpg,two\n")
    source = open_source(tmp_path, split="test")
    assert [(entry.name, entry.text) for entry in source.entries()] == [("test/b.jpg", ("two",))]
    assert said(source) == {"left out: pictures of other splits": ["train/a.jpg", "train/a.jpg"]}


@pytest.mark.parametrize("all_captions", [True, False])
def test_rows_of_one_picture_are_its_captions(tmp_path: Path, all_captions: bool) -> None:
    """Side by side or apart: gathered, or the first one with the others counted; one input either way."""
    rows = [("a.jpg", "one"), ("a.jpg", "two"), ("b.jpg", "x"), ("a.jpg", "three")]
    put(tmp_path, "a.jpg", "b.jpg")
    text = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in rows)
    put(tmp_path, "metadata.jsonl", data=text.encode())
    source = open_source(tmp_path, all_captions=all_captions)
    first, second = source.entries()
    assert first.text == (("one", "two", "three") if all_captions else ("one",))
    assert second.text == ("x",)
    further = "left out: further captions of a picture (--captions list keeps them)"
    assert said(source) == ({} if all_captions else {further: ["a.jpg", "a.jpg"]})


def test_a_folder_called_like_a_caption_costs_nothing(tmp_path: Path) -> None:
    """0000.txt/ beside 0000.png: the picture has no caption."""
    put(tmp_path, "0000.png", "0000.txt/a.jpg")
    source = open_source(tmp_path)
    assert [source.read(entry).text for entry in source.entries()] == [(), ()]


def test_lines_are_one_caption_or_several(tmp_path: Path) -> None:
    """As the build asks for them."""
    data = b"a cat\n\n on a mat \n"
    assert read_captions(data).texts == ("a cat", "on a mat")
    assert read_captions(data, each_line=False).texts == ("a cat on a mat",)


@pytest.mark.parametrize(
    ("value", "texts", "note"),
    [
        (None, (), "caption that is null or NaN: empty"),
        (float("nan"), (), "caption that is null or NaN: empty"),
        (7, ("7",), "caption that is a number: kept as text"),
        (["a", None, 2.5], ("a", "2.5"), "caption that is null or NaN: empty"),
        ("caf\udce9", (), UNTOLD),
        ("", (), None),
    ],
)
def test_what_is_no_caption_costs_no_picture(value: object, texts: tuple[str, ...], note: str | None) -> None:
    """Null, NaN, numbers and bytes that are no text: counted, and the picture stays."""
    assert read_values(value) == (texts, note)


def test_a_listing_of_another_encoding_is_told(tmp_path: Path) -> None:
    """cp1252 as a whole is read, and said; a damaged line of UTF-8 loses its caption alone; a name of any bytes finds its file."""
    put(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path, "metadata.csv", data="file_name,text\na.jpg,the dog’s bowl\nb.jpg,naïve\n".encode("cp1252"))
    source = open_source(tmp_path)
    assert [entry.text for entry in source.entries()] == [("the dog’s bowl",), ("naïve",)]
    assert said(source) == {"listing read as cp1252": ["metadata.csv"]}
    put(tmp_path, "metadata.csv", data="file_name,text\na.jpg,Hündchen auf der Straße\nb.jpg,na".encode() + b"\xefve\n")
    assert [entry.text for entry in source.entries()] == [("Hündchen auf der Straße",), ()]
    assert said(source) == {UNTOLD: ["b.jpg"]}


def test_an_unclosed_quote_costs_its_own_row(tmp_path: Path) -> None:
    """Whatever follows: quoted rows, plain rows, the end of the file."""
    rows = [
        f"{n}.jpg,{caption}" for n, caption in enumerate(['"open', "plain", '"quoted, too"', '"open again', "x", "y"])
    ]
    put(tmp_path, "metadata.csv", data="\n".join(["file_name,text", *rows]).encode())
    found = [row if isinstance(row, str) else row["file_name"] for _, row in csv_rows(tmp_path / "metadata.csv")]
    unclosed = "a quote that is not closed"
    assert found == [unclosed, "1.jpg", "2.jpg", unclosed, "4.jpg", "5.jpg"]


def test_a_delimiter_of_the_rows_alone_is_said(tmp_path: Path) -> None:
    """The header has commas, a row semicolons: the problem names both."""
    put(tmp_path, "metadata.csv", data=b"file_name,text\na.jpg;a cat\n")
    ((_, problem),) = csv_rows(tmp_path / "metadata.csv")
    assert problem == "1 fields under a header of 2; it looks separated by ';', the header by ','"


def test_a_timestamp_beyond_python_costs_nothing(tmp_path: Path) -> None:
    """A column that nobody asked for may hold what Python cannot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    when = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"file_name": ["a.jpg"], "when": when, "text": ["x"]}), tmp_path / "metadata.parquet")
    assert list(parquet_rows(tmp_path / "metadata.parquet")) == [(1, {"file_name": "a.jpg", "text": "x", "when": None})]


def test_damaged_json_over_lines_ends_with_a_word(tmp_path: Path) -> None:
    """What is before the damage is kept."""
    put(tmp_path, "p.json", data=b'[\n {"a": 1},\n {"a": 2},\n {"a": ]')
    found = [row for _, row in json_rows(tmp_path / "p.json")]
    assert found[:2] == [{"a": 1}, {"a": 2}]
    assert "damaged from here on" in found[2]


def test_notes_are_bounded() -> None:
    """Names of files are anybody's: neither kinds nor names grow without end, and the counts stay right."""
    notes = Notes()
    for n in range(2 * NAMED):
        notes("one", str(n))
        notes(f"kind {n}", "x")
    assert notes.found["one"]["count"] == 2 * NAMED
    assert len(notes.found["one"]["names"]) == NAMED
    assert len(notes.found) == KINDS + 1
    assert sum(noted["count"] for noted in notes.found.values()) == 4 * NAMED


def test_rejects_are_shown_a_line_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many there are, with the first three names of each code."""
    put(tmp_path, "raw/good.jpg")
    put(tmp_path, *(f"raw/{n}.jpg" for n in range(5)), data=b"no picture")
    put(tmp_path, "raw/z.jpg", data=b"")
    show_build(condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64), as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "5 x unknown-format: no picture of a format that is read (0.jpg, 1.jpg, 2.jpg ...)" in text
    assert "1 x empty: no bytes at all (z.jpg)" in text
    assert text.count(" x unknown-format") == 1


def test_a_build_says_what_it_left_a_line_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the first three names, also when it is resumed; the JSON has all; what was seen while reading counts, too."""
    put(tmp_path, *(f"raw/{n}.jpg" for n in range(3)), *(f"raw/{n}.psd" for n in range(5)))
    put(tmp_path, "raw/0.txt", data="the dog’s bowl".encode("cp1252"))
    put(tmp_path, "raw/1.txt", data="Hündchen, Straße und Äpfel".encode() + b"\xff")
    for _ in range(2):
        built = condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
        assert {kind: noted["count"] for kind, noted in built.notes.items()} == {
            "skipped: .psd": 5,
            "caption read as cp1252": 1,
            UNTOLD: 1,
        }
        show_build(built, as_json=False)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("note")]
        assert len(lines) == 3
        assert "5 x skipped: .psd (0.psd, 1.psd, 2.psd ...)" in lines[0]
        show_build(built, as_json=True)
        assert len(json.loads(capsys.readouterr().out)["notes"]["skipped: .psd"]["names"]) == 5
