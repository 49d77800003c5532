"""Caches of other versions are named, left alone while there is room, removed oldest first where there is none, and never read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trainer.data.old_caches import cache_name, make_room, outdated, outdated_notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with folders of this version and of two others, and what belongs to none."""
    for age, name in enumerate((f"{cache_name('latents')}-0a", "latents-0b", "text-v1-0c", f"{cache_name('text')}-0d")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.npy").write_bytes(bytes(500_000))
        os.utime(tmp_path / name, (age, age))
    (tmp_path / "scan-00.json").write_text("{}")
    return tmp_path


def test_what_is_of_another_version_is_named(folder: Path) -> None:
    """Folders, their size together, and that nothing is done with them; nothing is said where there are none."""
    assert [path.name for path in outdated(folder)] == ["latents-0b", "text-v1-0c"]
    (note,) = outdated_notes(folder)
    assert "1.0 MB" in note
    assert "latents-0b, text-v1-0c" in note
    for path in outdated(folder):
        shutil.rmtree(path)
    assert outdated_notes(folder) == []


def test_they_go_when_space_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, and no more than is needed; those of this version never."""
    usage = shutil.disk_usage(folder)

    def free(_: object) -> object:
        return usage._replace(free=10**6 - sum(path.stat().st_size for path in folder.rglob("*.npy")) // 4)

    monkeypatch.setattr(shutil, "disk_usage", free)
    assert make_room(folder, 400_000) == 500_000
    assert len(outdated(folder)) == 2
    assert make_room(folder, 600_000) == 625_000
    assert [path.name for path in outdated(folder)] == ["text-v1-0c"]
    assert make_room(folder, 10**7) == 750_000
    assert not outdated(folder)
    assert len(list(folder.rglob("*.npy"))) == 2


def test_a_link_is_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What lies elsewhere is not removed by its name here."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "latents-link").symlink_to(elsewhere)
    make_room(folder, 2**62)
    assert elsewhere.is_dir()
