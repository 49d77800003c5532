"""Zips: read in place as tars are, by the same rules against what is hostile or damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import stat
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from support.pictures import encoded, smooth

from condprep.errors import Rejected, SourceError
from condprep.sources import zip_directory
from condprep.sources.base import Source
from condprep.sources.open import open_source
from condprep.types import Notes

PICTURES = [encoded(smooth(8, 8, seed)) for seed in range(3)]


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        for name, data in members:
            out.writestr(name, data)
    return file.getvalue()


def opened(folder: Path, data: bytes, **options: object) -> Source:
    (folder / "a.zip").write_bytes(data)
    return open_source(folder / "a.zip", **options)


def problems(source: Source) -> dict[str, str | None]:
    return {entry.name: entry.problem for entry in source.entries()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pictures_and_captions_are_read_in_place(tmp_path: Path, method: int) -> None:
    """The very bytes, with the caption beside; by pickle and from other threads the same; nothing is unpacked."""
    members = [("x/0.jpg", PICTURES[0]), ("x/0.TXT", b"a cat"), ("день.jpg", PICTURES[1]), ("22.05.png", PICTURES[2])]
    source = pickle.loads(pickle.dumps(opened(tmp_path, zipped(*members, ("22.05.txt", b"may"), method=method))))
    found = [source.read(entry) for entry in source.entries()]
    assert [(one.name, one.data, one.text) for one in found] == [
        ("a.zip#x/0.jpg", PICTURES[0], ("a cat",)),
        ("a.zip#день.jpg", PICTURES[1], ()),
        ("a.zip#22.05.png", PICTURES[2], ("may",)),
    ]
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("inside", [True, False])
def test_metadata_names_the_members(tmp_path: Path, inside: bool) -> None:
    """A metadata file in the zip, or beside the only zip of a folder: its rows, their captions, and a reject for what is not there."""
    rows = "".join(json.dumps({"file_name": name, "text": name}) + "\n" for name in ("b\\1.jpg", "gone.jpg"))
    members = [("0.jpg", PICTURES[0]), ("b/1.jpg", PICTURES[1])]
    if inside:
        members.append(("metadata.jsonl", rows.encode()))
    else:
        (tmp_path / "metadata.jsonl").write_text(rows)
    notes = Notes()
    for source in (opened(tmp_path, zipped(*members)), open_source(tmp_path)):
        good, bad = source.entries(notes)
        assert (good.name, good.text) == ("a.zip#b/1.jpg", ("b\\1.jpg",))
        assert source.read(good).data == PICTURES[1]
        assert bad.problem == "'gone.jpg' is not in the zip"
    assert notes.found["left out: pictures that no listing names"]["names"][0] == "a.zip#0.jpg"


def test_a_name_that_several_zips_have_names_none_of_them(tmp_path: Path) -> None:
    """A listing beside zips: a picture of which it cannot be told where it lies is a reject, and no other one gets its caption."""
    (tmp_path / "a.zip").write_bytes(zipped(("1.jpg", PICTURES[0]), ("2.jpg", PICTURES[1])))
    (tmp_path / "b.zip").write_bytes(zipped(("1.jpg", PICTURES[2]), ("3.jpg", PICTURES[2])))
    rows = [{"file_name": f"{number}.jpg", "text": str(number)} for number in (1, 2, 3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    twice, *others = open_source(tmp_path).entries()
    assert (twice.name, twice.code) == ("metadata.jsonl:1", "listed-twice")
    assert [(one.name, one.text) for one in others] == [("a.zip#2.jpg", ("2",)), ("b.zip#3.jpg", ("3",))]


def test_zips_are_splits(tmp_path: Path) -> None:
    """train.zip and test.zip: one is chosen."""
    for split, picture in (("train", PICTURES[0]), ("test", PICTURES[1])):
        (tmp_path / f"{split}.zip").write_bytes(zipped(("0.jpg", picture)))
    with pytest.raises(SourceError, match="has the splits test, train"):
        open_source(tmp_path)
    source = open_source(tmp_path, split="test")
    (entry,) = source.entries()
    assert source.read(entry).data == PICTURES[1]


def test_unsafe_members_are_problems_and_touch_nothing(tmp_path: Path) -> None:
    """Absolute and `..` names, links, encryption, methods that are not read, two of one name: problem entries."""
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    names = ["../up.jpg", "/etc/abs.jpg", "good.jpg"]
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(*((name, PICTURES[0]) for name in [*names, "good.jpg"]), (link, b"/etc/passwd"))
    found = problems(opened(tmp_path, data))
    assert list(found.values()) == [
        "its name leaves the zip",
        "its name leaves the zip",
        None,
        "the zip holds two members of this name",
        "a link, device or sparse file",
    ]
    odd = zipped(("a.jpg", PICTURES[0]), method=zipfile.ZIP_BZIP2)
    assert "packed by method 12" in str(problems(opened(tmp_path, odd)))
    locked = bytearray(zipped(("a.jpg", PICTURES[0])))
    locked[locked.rindex(b"PK\1\2") + 8] |= 1
    assert "encrypted" in str(problems(opened(tmp_path, bytes(locked))))


def test_a_bomb_is_a_problem_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that unpacks to thousands of times its bytes is none; one that unpacks to more than it says is damaged."""
    monkeypatch.setattr(zip_directory, "FREE", 1 << 20)
    assert "more than 1 : 200" in str(problems(opened(tmp_path, zipped(("a.jpg", bytes(4 << 20))))))
    data = bytearray(zipped(("a.jpg", bytes(1 << 20))))
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    source = opened(tmp_path, bytes(data))
    (entry,) = source.entries()
    with pytest.raises(Rejected, match="not the bytes that were packed"):
        source.read(entry)


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    """A flipped bit in a member is its reject; one in the directory ends it with a word; no directory is an error."""
    whole = zipped(("0.jpg", PICTURES[0]), ("1.jpg", PICTURES[1]), method=zipfile.ZIP_STORED)
    flipped = bytearray(whole)
    flipped[100] ^= 1
    source = opened(tmp_path, bytes(flipped))
    first, second = source.entries()
    with pytest.raises(Rejected, match="not the bytes that were packed"):
        source.read(first)
    assert source.read(second).data == PICTURES[1]
    broken = bytearray(whole)
    broken[broken.rindex(b"PK\1\2")] ^= 1
    found = [*problems(opened(tmp_path, bytes(broken))).values()]
    assert found[0] is None
    assert "its directory is damaged" in found[1]
    for data in (b"", b"no zip", whole[:-30]):
        with pytest.raises(SourceError, match="no zip, or is cut off"):
            opened(tmp_path, data)


def test_fuzzed_zips_end_and_read_only_themselves(tmp_path: Path) -> None:
    """With bytes changed anywhere, 300 times: the listing ends, names are unique text, reading is bytes or Rejected."""
    whole = zipped(("0.jpg", PICTURES[0]), ("0.txt", b"a cat"), ("b/1.jpg", PICTURES[1]), ("metadata.txt", b"x"))
    for seed in range(300):
        draw = random.Random(seed)
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            source = opened(tmp_path, bytes(data[: draw.randint(len(data) - 40, len(data))]))
            entries = list(source.entries())
        except SourceError:
            continue
        assert len({entry.name for entry in entries}) == len(entries)
        for entry in entries:
            entry.name.encode("utf-8")
            if not entry.problem:
                with suppress(Rejected):
                    assert len(source.read(entry).data) == entry.size


def test_a_zip_of_more_than_four_gigabytes_is_read(tmp_path: Path) -> None:
    """Its directory has 64-bit fields; a hole stands for the gigabytes."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", allowZip64=True) as out:
        out.writestr("0.jpg", PICTURES[0])
        out.fp.seek(5 << 30)
        out.start_dir = 5 << 30
        out.writestr("1.jpg", PICTURES[1])
    source = open_source(path)
    assert [source.read(entry).data for entry in source.entries()] == PICTURES[:2]


@pytest.mark.slow
def test_a_long_directory_is_streamed(tmp_path: Path) -> None:
    """5,000 members are listed in two MB: a hash of each name, and none of the names."""
    import tracemalloc

    source = opened(tmp_path, zipped(*((f"{number:040}.jpg", b"") for number in range(5_000))))
    tracemalloc.start()
    count = sum(1 for _ in source.entries())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 2_300_000
