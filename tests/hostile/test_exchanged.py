"""A folder or a file of ours that somebody exchanges for a link while a command runs: nothing elsewhere is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from condprep.errors import UsageError
from condprep.runtime import own
from condprep.runtime.files import commit, commit_text

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs paths of open files, and fork")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder of ours, in which `inside` has become a link to somebody's folder."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a").write_text("precious")
    own.claim(tmp_path / "ours")
    (tmp_path / "ours" / "inside").symlink_to(tmp_path / "theirs")
    return tmp_path / "ours"


def test_nothing_is_done_below_a_link(ours: Path) -> None:
    """Written, appended to, moved, made or removed: each refuses by name, and says what to do."""
    (ours / "b").write_text("ours")
    acts = (
        lambda: commit_text(ours / "inside" / "a", "text"),
        lambda: own.appending(ours / "inside" / "a").__enter__(),
        lambda: own.move(ours / "b", ours / "inside" / "a"),
        lambda: own.move(ours / "inside" / "a", ours / "b"),
        lambda: own.make_folder(ours / "inside" / "c"),
        lambda: own.make_folder(ours / "inside"),
        lambda: own.remove(ours / "inside" / "a"),
        lambda: own.remove_tree(ours / "inside" / "a"),
        lambda: own.Held(ours / "inside"),
    )
    for act in acts:
        with pytest.raises(UsageError, match="inside has become a link"):
            act()
    assert (ours.parent / "theirs" / "a").read_text() == "precious"
    assert [path.name for path in (ours.parent / "theirs").iterdir()] == ["a"]


def test_a_held_folder_is_written_to_whatever_its_name_leads_to(tmp_path: Path) -> None:
    """What is given to libraries that take paths stays the folder that was opened."""
    (tmp_path / "ours" / "inside").mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    with own.held(tmp_path / "ours" / "inside") as place:
        (tmp_path / "ours" / "inside").rename(tmp_path / "moved")
        (tmp_path / "ours" / "inside").symlink_to(tmp_path / "theirs")
        (place / "a").write_text("text")
    assert (tmp_path / "moved" / "a").read_text() == "text"
    assert not list((tmp_path / "theirs").iterdir())


def test_a_partial_file_that_is_exchanged_is_no_result(tmp_path: Path) -> None:
    """A link that takes the partial file's name while it is written: what it leads to stays, and so does what was there."""
    theirs, target = tmp_path / "theirs", tmp_path / "page.html"
    theirs.write_text("precious")
    target.write_text("before")

    def write(partial: Path) -> None:
        (tmp_path / "page.html.partial").unlink()
        (tmp_path / "page.html.partial").symlink_to(theirs)
        partial.write_text("text")

    with pytest.raises(OSError, match="exchanged"):
        commit(target, write)
    assert (theirs.read_text(), target.read_text()) == ("precious", "before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "theirs"]
