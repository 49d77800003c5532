"""`condprep annotate`: maps of a few pictures as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from support.command import Command
from support.pictures import size_of


def test_annotate_writes_maps_of_the_pictures_size(command: Command, raw: Path, tmp_path: Path) -> None:
    """One PNG a picture, of its size, listed on stdout; one that cannot be read is named and the exit code is 1."""
    pictures = sorted(raw.rglob("*.png"))
    ended = command("annotate", *pictures, "-a", "canny", "-o", tmp_path / "maps")
    assert ended.code == 0
    written = [Path(line) for line in ended.out.splitlines()]
    assert written == [tmp_path / "maps" / picture.name for picture in pictures]
    assert [size_of(path) for path in written] == [size_of(path) for path in pictures]
    (raw / "bad.jpg").write_text("no picture")
    ended = command("annotate", raw / "bad.jpg", pictures[0], "-a", "canny", "-o", tmp_path / "more")
    assert ended.code == 1
    assert ended.out.splitlines() == [str(tmp_path / "more" / pictures[0].name)]
    assert "bad.jpg: not a picture" in ended.err


def test_annotate_does_not_overwrite_unasked(command: Command, photo: Path, tmp_path: Path) -> None:
    """A map that is there is left alone, exit code 2; --overwrite replaces it."""
    arguments = ("annotate", photo, "-o", tmp_path, "-a", "canny", "--set")
    assert command(*arguments, "canny.low=10").code == 0
    before = (tmp_path / "01.png").read_bytes()
    ended = command(*arguments, "canny.low=200")
    assert ended.code == 2
    assert "01.png exists; choose another --out or say --overwrite" in ended.err
    assert (tmp_path / "01.png").read_bytes() == before
    assert command(*arguments, "canny.low=200", "--overwrite").code == 0
    assert (tmp_path / "01.png").read_bytes() != before


@pytest.mark.parametrize("fit", ["keep", "crop"])
def test_like_gives_the_datasets_own_map(command: Command, raw: Path, photo: Path, tmp_path: Path, fit: str) -> None:
    """`annotate --like ds/`: the map that the dataset stores for that picture, and with --pictures its picture."""
    options = ("--fit", fit, "--set", "canny.low=30", "--image-format", "png", "--resolution", "128")
    assert command("build", raw, "-a", "canny", "--out", tmp_path / "ds", *options).code == 0
    assert command("annotate", photo, "--like", tmp_path / "ds", "-o", tmp_path / "maps", "--pictures").code == 0
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    row = rows[rows["source"][:].index("group1/01.png")]
    for column, name in (("conditioning_image", "01.png"), ("image", "01.image.png")):
        written = Image.open(tmp_path / "maps" / name)
        np.testing.assert_array_equal(np.asarray(written), np.asarray(row[column].convert(written.mode)))


def test_a_folder_is_all_pictures_in_it(command: Command, raw: Path, tmp_path: Path) -> None:
    """`annotate FOLDER`: what a build would find in it, not what it writes there itself; one without pictures is refused."""
    for _ in range(2):
        ended = command("annotate", raw, "-a", "canny", "-o", raw / "maps", "--overwrite")
        assert ended.code == 0
        pictures = [path for path in raw.rglob("*.*") if path.suffix != ".txt" and "maps" not in path.parts]
        assert len(ended.out.splitlines()) == len(pictures)
    (tmp_path / "empty").mkdir()
    ended = command("annotate", tmp_path / "empty", "-a", "canny", "-o", tmp_path / "maps")
    assert (ended.code, ended.err) == (
        2,
        f"error: {tmp_path / 'empty'} holds no pictures; name one, or a folder that does\n",
    )
