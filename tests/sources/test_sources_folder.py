"""The folder source: what is an input, in which order, and what happens to everything that cannot be read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pictures import encoded, smooth

from condprep.errors import Rejected, SourceError
from condprep.sources import base, text
from condprep.sources.base import native, portable
from condprep.sources.folder import FolderSource
from condprep.sources.open import open_source
from condprep.sources.text import captions
from condprep.types import Notes

PICTURE = encoded(smooth(8, 8))


def put(folder: Path, *names: str | bytes, data: bytes = PICTURE) -> Path:
    """Files with this content, their folders made."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return folder


def names(source: FolderSource) -> list[str]:
    return [entry.name for entry in source.entries()]


def problems(source: FolderSource) -> dict[str, str | None]:
    return {entry.name: entry.problem for entry in source.entries()}


def reason(source: FolderSource, entry: base.Entry) -> str:
    """Why an entry cannot be read."""
    with pytest.raises(Rejected) as rejected:
        source.read(entry)
    assert rejected.value.stage == "read"
    return rejected.value.reason


# what is listed


def test_pictures_below_are_inputs_and_nothing_else_is(tmp_path: Path) -> None:
    """Every picture extension in any case, at any depth; no other file, no hidden file, no hidden folder."""
    extensions = ["jpg", "JPEG", "Png", "webp", "avif", "bmp", "tif", "tiff", "gif", "jfif"]
    put(tmp_path, *(f"deep/er/a.{extension}" for extension in extensions))
    put(tmp_path, "README.txt", "a.json", ".hidden.jpg", ".git/b.jpg", "jpg", "c.jpg.txt", "d.svg", "e.pdf")
    assert sorted(names(FolderSource(tmp_path))) == sorted(f"deep/er/a.{extension}" for extension in extensions)


@given(st.sets(st.text(st.sampled_from("aB-.é /"), min_size=1, max_size=6), max_size=12))
def test_the_order_is_that_of_the_whole_paths(tmp_path_factory: pytest.TempPathFactory, stems: set[str]) -> None:
    """Entries come sorted by the code points of their relative path, as if all paths were sorted at once."""
    folder = tmp_path_factory.mktemp("order")
    stems = {"/".join(part for part in stem.split("/") if part.strip(".")) + "_.jpg" for stem in stems}
    try:
        put(folder, *sorted(stems))
    except (IsADirectoryError, FileExistsError, NotADirectoryError):
        return
    visible = [stem for stem in stems if not any(part.startswith(".") for part in stem.split("/"))]
    assert names(FolderSource(folder)) == sorted(visible)


def test_the_order_does_not_depend_on_how_the_system_lists(tmp_path: Path, monkeypatch) -> None:
    """The same files listed backwards by the system give the same entries."""
    put(tmp_path, "b/1.jpg", "b/2.jpg", "a.jpg", "b.jpg", "b-c.jpg", "c/d/e.jpg")
    before = list(FolderSource(tmp_path).entries())
    scandir = os.scandir

    class Backwards(list):
        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda path: Backwards(reversed(list(scandir(path)))))
    assert list(FolderSource(tmp_path).entries()) == before
    assert [entry.name for entry in before] == ["a.jpg", "b-c.jpg", "b.jpg", "b/1.jpg", "b/2.jpg", "c/d/e.jpg"]


def test_the_output_folder_is_skipped(tmp_path: Path) -> None:
    """Pictures in the excluded folder, however it is spelt, are no inputs; a folder that is not there yet harms nobody."""
    put(tmp_path, "a.jpg", "ds/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "ds")
    for exclude in (tmp_path / "ds", tmp_path / "link", tmp_path / "ds" / ".." / "ds"):
        assert names(FolderSource(tmp_path, exclude)) == ["a.jpg"]
    assert names(FolderSource(tmp_path, tmp_path / "later")) == ["a.jpg", "ds/b.jpg"]


def test_links_are_followed_and_loops_are_harmless(tmp_path: Path) -> None:
    """A link to a file is an input; a real folder is visited once, under its first name; loops and self-loops end."""
    put(tmp_path, "real/a.jpg")
    (tmp_path / "z").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "to_file.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    assert names(FolderSource(tmp_path)) == ["real/a.jpg", "to_file.jpg"]


def test_a_very_deep_tree_is_walked(tmp_path: Path) -> None:
    """The depth of folders is limited by the system's paths, not by Python's stack."""
    folders = [tmp_path / ("d/" * depth) for depth in range(1, 1501)]
    for folder in folders:
        folder.mkdir()
    put(folders[-1], "a.jpg")
    assert names(FolderSource(tmp_path)) == ["d/" * 1500 + "a.jpg"]
    (folders[-1] / "a.jpg").unlink()
    for folder in reversed(folders):  # pytest's own tidying up is recursive
        folder.rmdir()


# names


@pytest.mark.parametrize(
    "name", ["день 1.jpg", "a\nb.jpg", "back\\slash.jpg", "\\x41.jpg", "😀.jpg", b"latin\xe9.jpg", "q'\".jpg"]
)
def test_any_file_name_is_read_back(tmp_path: Path, name: str | bytes) -> None:
    """Unicode, newlines, backslashes and bytes that are no UTF-8: the name is valid text and finds its file."""
    put(tmp_path, name)
    (entry,) = FolderSource(tmp_path).entries()
    assert entry.name.encode("utf-8").decode() == entry.name
    assert FolderSource(tmp_path).read(entry).data == PICTURE


@given(st.binary(min_size=1, max_size=30))
def test_portable_names_are_unique_and_reversible(raw: bytes) -> None:
    """`native` undoes `portable` for any bytes, so that two files never share a name."""
    path = os.fsdecode(raw)
    assert native(portable(path)) == path
    portable(path).encode("utf-8")


# captions


def test_a_sidecar_gives_one_caption_a_line(tmp_path: Path) -> None:
    """NAME.txt beside NAME.jpg: stripped, empty lines dropped, byte order mark survived; none is ()."""
    put(tmp_path, "a.b.jpg", "c.jpg")
    put(tmp_path, "a.b.txt", data="\ufeff a cat \r\n\n  ein Hündchen\n!".encode())
    source = FolderSource(tmp_path)
    texts = [source.read(entry).text for entry in source.entries()]
    assert texts == [("a cat", "ein Hündchen", "!"), ()]


def test_a_line_of_captions_ends_where_a_line_of_a_file_does(tmp_path: Path) -> None:
    """Unicode's separators, which text copied from a page has, part no caption in two: they are white space in it."""
    put(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("a cat\u2028on\x85a\x0bmat\r\na dog\n", newline="")
    assert FolderSource(tmp_path).read(next(FolderSource(tmp_path).entries())).text == ("a cat on a mat", "a dog")


def test_a_giant_sidecar_is_cut(tmp_path: Path) -> None:
    """No more than MAX_CAPTION bytes of a caption file are read."""
    put(tmp_path, "a.jpg")
    put(tmp_path, "a.txt", data=b"x" * (5 * text.MAX_CAPTION))
    source = FolderSource(tmp_path)
    (caption,) = source.read(next(source.entries())).text
    assert len(caption) == text.MAX_CAPTION


@given(st.binary(max_size=200))
def test_any_bytes_are_captions(data: bytes) -> None:
    """Captions are text without NUL, newlines or outer blanks, whatever the file holds."""
    for caption in captions(data):
        assert caption == caption.strip() != ""
        assert "\0" not in caption
        assert len(caption.splitlines()) == 1
        caption.encode("utf-8")


# what cannot be used


def test_a_change_of_picture_or_caption_changes_the_stamp(tmp_path: Path) -> None:
    """A rewritten picture, a new caption and a rewritten caption each show in the stamp; a second look does not."""
    put(tmp_path, "a.jpg")
    source = FolderSource(tmp_path)
    stamps = [next(source.entries()).stamp]
    for name, data in (("a.jpg", PICTURE + b"!"), ("a.txt", b"one"), ("a.txt", b"three")):
        put(tmp_path, name, data=data)
        stamps.append(next(source.entries()).stamp)
    assert len(set(stamps)) == 4
    assert next(source.entries()).stamp == stamps[-1]


def test_what_is_no_regular_file_is_a_problem_not_a_wait(tmp_path: Path) -> None:
    """A dangling link, and a named pipe (which would block its reader for ever), are listed with their problem."""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    source = FolderSource(tmp_path)
    assert problems(source) == {
        "gone.jpg": "cannot be read: No such file or directory",
        "pipe.jpg": "not a regular file",
    }
    assert reason(source, base.Entry("pipe.jpg", "")) == "not a regular file"


def test_a_file_above_the_cap_is_a_problem_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of 2 GiB costs a stat, not memory."""
    with open(tmp_path / "big.jpg", "wb") as file:
        file.truncate(2 << 30)
    source = FolderSource(tmp_path)
    assert problems(source) == {"big.jpg": "2147483648 bytes > limit 1073741824 bytes"}
    assert "limit" in reason(source, next(source.entries()))


def test_a_file_that_vanishes_or_may_not_be_read_is_a_reject(tmp_path: Path, monkeypatch) -> None:
    """Between listing and reading anything may happen to a file: the reason names it and what the system said."""
    put(tmp_path, "a.jpg")
    source = FolderSource(tmp_path)
    entry = next(source.entries())

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:  # a real mode of 000 does not stop root
        patched.setattr(os, "open", refuse)
        assert reason(source, entry) == "'a.jpg' cannot be read: Permission denied"
    (tmp_path / "a.jpg").unlink()
    assert reason(source, entry) == "'a.jpg' cannot be read: No such file or directory"


def test_a_folder_that_cannot_be_listed_is_a_problem_entry(tmp_path: Path, monkeypatch) -> None:
    """Its pictures cannot be counted, but it is not passed over in silence; the others are listed."""
    put(tmp_path, "a.jpg", "locked/b.jpg", "z.jpg")
    scandir = os.scandir

    def guarded(path: object) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = problems(FolderSource(tmp_path))
    assert found == {"a.jpg": None, "locked/": "the folder cannot be listed: Permission denied", "z.jpg": None}


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    with pytest.raises(SourceError, match="cannot be listed"):
        list(FolderSource(tmp_path / "nowhere").entries())


def test_a_picture_of_no_bytes_and_a_text_called_jpg_are_inputs(tmp_path: Path) -> None:
    """They are read as they are; the decoder says what is wrong with them, and they are counted."""
    put(tmp_path, "empty.jpg", data=b"")
    put(tmp_path, "text.jpg", data=b"hello")
    source = FolderSource(tmp_path)
    assert [source.read(entry).data for entry in source.entries()] == [b"", b"hello"]


def test_a_pickled_source_reads_the_same(tmp_path: Path) -> None:
    """Workers get the source by pickle; its identity is JSON without a path."""
    put(tmp_path, "a.jpg")
    source = open_source(tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again.read(next(again.entries())) == source.read(next(source.entries()))
    assert source.identity == again.identity == {"kind": "folder"}


def test_captions_in_a_caption_file(tmp_path: Path) -> None:
    """`NAME.caption` is read where there is no `NAME.txt`, is no file that was left out, and one that changes is a change."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"picture")
        (tmp_path / name).with_suffix(".caption").write_text(f"kohya's of {name}")
    (tmp_path / "b.txt").write_text("of b")
    source, left = FolderSource(tmp_path), Notes()
    before = list(source.entries(left))
    assert [source.read(entry).text for entry in before] == [("kohya's of a.jpg",), ("of b",)]
    assert not left.found
    (tmp_path / "a.caption").write_text("another")
    assert [old == new for old, new in zip(before, source.entries())] == [False, True]


def test_a_picture_without_captions_costs_no_search_for_them(tmp_path: Path, monkeypatch) -> None:
    """What the listing does not show is not asked for: listing and reading cost two questions a picture to the file system."""
    source = FolderSource(put(tmp_path, *(f"{number}.png" for number in range(20))))
    put(tmp_path, "3.caption", data=b"a cat")
    asked = list[str]()
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *rest, **named: asked.append(path) or real(path, *rest, **named))
    entries = list(source.entries())
    read = [source.read(entry) for entry in entries]
    assert [sample.text for sample in read if sample.text] == [("a cat",)]
    assert len(asked) < 5 * len(entries)
