"""A file that is exchanged between the listing and the reading of it, on a disk."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.pictures import encoded, smooth
from support.tars import tar

import condprep
from condprep.building.inputs import open_inputs
from condprep.errors import SourceError
from condprep.runtime.progress import Progress
from condprep.sources.open import open_source


def loose(root: Path) -> Path:
    (root / "0.jpg").write_bytes(encoded(smooth(64, 64, 0)))
    return root / "0.jpg"


def captioned(root: Path) -> Path:
    loose(root)
    (root / "0.txt").write_text("a wave")
    return root / "0.txt"


def listed(root: Path) -> Path:
    (root / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "a wave"}\n')
    return loose(root)


def zipped(root: Path) -> Path:
    with zipfile.ZipFile(root / "all.zip", "w") as file:
        file.writestr("0.jpg", encoded(smooth(64, 64, 0)))
    return root / "all.zip"


def tarred(root: Path) -> Path:
    (root / "all.tar").write_bytes(tar(("0.jpg", encoded(smooth(64, 64, 0)))))
    return root / "all.tar"


@pytest.mark.parametrize("kind", [loose, captioned, listed, zipped, tarred])
def test_a_file_that_is_exchanged_after_it_was_listed_is_told(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    """A picture of another size or time, its captions, or the zip or tar that it lies in: what a plan lists is what is read, or nothing."""
    file = kind(tmp_path)
    source = open_source(tmp_path)
    (entry,) = source.entries()
    before = source.read(entry)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceError, match="is another file than the one that was listed; put it back"):
        source.read(entry)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.read(entry) == before


def test_a_build_stops_at_it_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    """No row of it, and no reject: the picture is as it was when the build goes on."""
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / "raw" / f"{number}.jpg").write_bytes(encoded(smooth(64, 64, number)))
    last = tmp_path / "raw" / "2.jpg"
    data, status = last.read_bytes(), last.stat()

    def exchange(state: Progress) -> None:
        if (state.stage, state.done) == ("build", 0):
            last.write_bytes(encoded(smooth(64, 64, 7)))

    with pytest.raises(SourceError, match=r"2\.jpg .*is another file"):
        condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64, shard_rows=1, progress=exchange)
    last.write_bytes(data)
    os.utime(last, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64, shard_rows=1)
    assert (result.rows, result.rejects) == ({"train": 3}, {})


@pytest.mark.parametrize("exchanged", ["image/0.png", "canny/0.png"])
def test_a_pair_that_is_exchanged_is_told(exchanged: str, tmp_path: Path) -> None:
    """Its picture and its map."""
    for name in ("image", "canny"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encoded(smooth(64, 64, 0), "PNG"))
    source = open_inputs(str(tmp_path), "pairs")
    (entry,) = source.entries()
    assert source.read(entry).condition
    file = tmp_path / exchanged
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))
    with pytest.raises(SourceError, match="is another file than the one that was listed"):
        source.read(entry)
