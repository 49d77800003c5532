"""Captions beside pictures, whatever their files are called: the same in a folder, a zip, a tar and at a URL."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import pytest
from support.pictures import encoded, smooth

from condprep.errors import Rejected
from condprep.sources.base import Source
from condprep.sources.open import open_source
from condprep.sources.text import MAX_DESCRIPTION
from condprep.types import Notes

PICTURE = encoded(smooth(8, 8))
Files = Mapping[str, bytes]


def in_folder(folder: Path, files: Files) -> Source:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return open_source(folder)


def in_zip(folder: Path, files: Files) -> Source:
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return open_source(folder / "a.zip")


def in_tar(folder: Path, files: Files) -> Source:
    with tarfile.open(folder / "a.tar", "w") as packed:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return open_source(folder / "a.tar")


def at_url(folder: Path, files: Files) -> Source:
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/{folder.name}/{name}": data for name, data in files.items()})
    return open_source(f"memory://{folder.name}")


@pytest.fixture(params=[in_folder, in_zip, in_tar, at_url])
def source(request: pytest.FixtureRequest, tmp_path: Path):
    """What makes a source of files, in each of the places; nothing of it stays."""
    yield lambda files: request.param(tmp_path, files)
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def read(source: Source) -> tuple[tuple[str, ...] | str, list[str]]:
    """The captions of the only picture, or the code and reason of its reject; and what is said of them."""
    notes = Notes()
    (entry,) = source.entries(notes)
    try:
        if entry.problem:
            return f"{entry.code}: {entry.problem}", [*notes.found]
        sample = source.read(entry)
    except Rejected as rejected:
        return f"{rejected.code}: {rejected.reason}", [*notes.found]
    return sample.text, [*notes.found, *([sample.note] if sample.note else [])]


@pytest.mark.parametrize("first", ["a.txt", "a.caption", "a.jpg.txt", "a.json"])
def test_one_file_has_the_captions(first: str, source: Callable[[Files], Source]) -> None:
    """NAME.txt before NAME.caption, NAME.jpg.txt and NAME.json: the first that is there is read, and is not left out."""
    files = {"a.caption": b"a.caption", "a.jpg": PICTURE, "a.jpg.txt": b"a.jpg.txt", "a.txt": b"a.txt"}
    files["a.json"] = json.dumps({"caption": "a.json"}).encode()
    order = ["a.txt", "a.caption", "a.jpg.txt", "a.json"]
    there = {name: data for name, data in files.items() if name == "a.jpg" or order.index(name) >= order.index(first)}
    notes = Notes()
    (entry,) = (made := source(there)).entries(notes)
    assert made.read(entry).text == (first,)
    assert not any(
        name.endswith(f"#{first}") or name == first for kind in notes.found.values() for name in kind["names"]
    )


@pytest.mark.parametrize(
    ("values", "captions"),
    [
        ({"prompt": "p", "caption": "c", "text": "t"}, ("t",)),
        ({"prompt": "p", "caption": "c"}, ("c",)),
        ({"prompt": "p", "width": 8}, ("p",)),
        ({"caption": ["one", " ", "two"]}, ("one", "two")),
        ({"caption": 7}, ("7",)),
        ({"caption": None}, ()),
    ],
)
def test_the_captions_of_a_description(
    values: object, captions: tuple[str, ...], source: Callable[[Files], Source]
) -> None:
    """NAME.json has them as text, else caption, else prompt: a string, a number, several, or none."""
    assert read(source({"a.jpg": PICTURE, "a.json": json.dumps(values).encode()}))[0] == captions


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{nonsense", "caption left out: its .json is damaged"),
        (b"\xff\xfe\xfa", "caption left out: its .json is damaged"),
        (b"[" * 100_000, "caption left out: its .json is damaged"),
        (b'["caption"]', "caption left out: its .json is damaged"),
        (b'{"caption": "%s"}' % (b"x" * MAX_DESCRIPTION), "caption left out: its .json is larger than 1 MiB"),
        (b'{"width": 8}', "no caption: its .json has no text or caption or prompt"),
    ],
)
def test_a_bad_description_costs_the_caption(data: bytes, said: str, source: Callable[[Files], Source]) -> None:
    """JSON that is damaged, no object, too large or without captions: the picture is an input, and it is said."""
    assert read(source({"a.jpg": PICTURE, "a.json": data})) == ((), [said])


def test_captions_that_are_no_text_are_a_reject(source: Callable[[Files], Source]) -> None:
    """As in a listing: the reject says what stood there."""
    told, _ = read(source({"a.jpg": PICTURE, "a.json": b'{"caption": {"en": "a cat"}}'}))
    assert told == "bad-caption: the caption {'en': 'a cat'} is neither a string nor a list of strings"


def test_only_pictures_have_captions_beside_them(tmp_path: Path) -> None:
    """Other .json and .txt files stay what they were: files that are left out and named; a change of captions shows."""
    files = {
        "a.jpg": PICTURE,
        "a.json": b'{"caption": "one"}',
        "b.json": b"{}",
        "b.jpg.txt": b"no picture",
        "c.txt": b"",
    }
    made, notes = in_folder(tmp_path, files), Notes()
    before = [*made.entries(notes)]
    assert {kind: noted["names"] for kind, noted in notes.found.items()} == {
        "skipped: .json": ["b.json"],
        "skipped: .txt": ["b.jpg.txt", "c.txt"],
    }
    (tmp_path / "a.json").write_bytes(b'{"caption": "another"}')
    assert before != [*made.entries()]
