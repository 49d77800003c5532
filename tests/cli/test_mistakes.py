"""A user's mistake is one line that names the thing, its value and the remedy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command import Command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "RAW", "-a", "opnpose", "--out", "OUT"], "unknown annotator 'opnpose'; did you mean openpose?"),
        (["build", "RAW", "-a", "canny:rand", "--out", "OUT"], "'canny' has no variant 'rand'; did you mean random?"),
        (["build", "RAW", "-a", "canny", "--set", "canny", "--out", "OUT"], "--set 'canny' is not of the form"),
        (
            ["build", "RAW", "-a", "canny", "--set", "canny.lo=1", "--out", "OUT"],
            "no parameter 'lo'; did you mean low?",
        ),
        (["build", "RAW", "-a", "canny", "--set", "canny.low=x", "--out", "OUT"], "canny.low = 'x': "),
        (["build", "RAW", "-a", "canny", "--set", "canny.low=201", "--out", "OUT"], ": low = 201 is above high = 200"),
        (["build", "RAW", "-a", "canny", "--set", "hed.low=1", "--out", "OUT"], "'hed', which is not among"),
        (["build", "RAW/missing", "-a", "canny", "--out", "OUT"], "missing"),
        (["build", "RAW", "-a", "canny", "--out", "RAW/group1/01.png"], "01.png is a file; choose another --out"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--resolution", "500"], "--resolution = 500: "),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--shard-size", "big"], "--shard-size 'big' is neither rows"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--weights", "RAW/no"], "no such folder"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--device", "tpu9"], "device 'tpu9'"),
        (
            ["build", "RAW", "-a", "canny", "--out", "OUT", "--workers", "-3"],
            "Invalid value for '--workers': Input should be greater than or equal to 0",
        ),
        (["build", "RAW", "-a", "canny"], "--out"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--resolutoin", "512"], "--resolution"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--fit", "stretch"], "keep"),
        (
            ["build", "RAW", "-a", "canny", "--out", "OUT", "--max-upscale", "inf"],
            "--max-upscale = inf: Input should be",
        ),
        (["build", "RAW", "-a", "", "--out", "OUT"], "unknown annotator ''; known: aux, blur"),
        (["build", "RAW", "-a", "canny , grey", "--out", "OUT"], "unknown annotator 'grey'; did you mean gray?"),
        (["biuld", "RAW"], "build"),
        (["inspect", "OUT"], "no such folder"),
        (["inspect", "RAW"], "holds no dataset"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT"], "either annotators (--annotator) or a dataset"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT", "--like", "RAW"], "no dataset made by condprep"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT", "--like", "RAW", "--fit", "pad"], "leave out --set"),
        (["annotate", "RAW/group1/01.png", "-a", "canny", "-o", "RAW/group1/01.png"], "choose another --out"),
        (["verify", "RAW/group1"], "`condprep build RAW/group1 --annotator NAME --out ds/` makes them"),
        (["verify", "RAW", "--scores", "OUT.csv"], "OUT.csv: a table of scores is a .parquet file"),
        (["report", "RAW", "--out", "OUT.txt"], "OUT.txt: a report is a .html, .htm file"),
        (["inspect", "RAW", "--sheet", "OUT.tiff"], "OUT.tiff: a contact sheet is a .png, .jpg"),
        (["weights", "where", "ControlNetHD.pth"], "did you mean ControlNetHED.pth?"),
        (["weights", "pull", "ControlNetHD.pth"], "did you mean ControlNetHED.pth?"),
    ],
)
def test_mistakes_end_with_2(command: Command, raw: Path, tmp_path: Path, arguments: Sequence[str], says: str) -> None:
    """A user's mistake: exit code 2, the thing and the remedy on stderr, nothing on stdout, no dataset begun."""
    paths = {"RAW": str(raw), "OUT": str(tmp_path / "out")}
    filled = [paths.get(a, a.replace("RAW/", f"{raw}/").replace("OUT", paths["OUT"])) for a in arguments]
    ended = command(*filled)
    assert (ended.code, ended.out) == (2, "")
    assert says.replace("RAW", str(raw)).replace("OUT", paths["OUT"]) in " ".join(ended.err.split())
    assert not (tmp_path / "out" / ".condprep" / "plan.json").exists()


@pytest.mark.parametrize("verb", ["build", "annotate"])
def test_a_folder_that_cannot_be_made_is_a_line(command: Command, raw: Path, photo: Path, verb: str) -> None:
    """An output folder below a file cannot be made: said in a line that names it, without a stack trace."""
    source = raw if verb == "build" else photo
    ended = command(verb, source, "-a", "canny", "--out", photo / "below")
    assert ended.code in (1, 2)
    assert ended.err.startswith("error: ")
    assert "01.png" in ended.err


def test_a_source_without_pictures_says_what_is_there(command: Command, tmp_path: Path) -> None:
    """The folder is named, and what lies in it."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.pdf").write_bytes(b"%PDF")
    ended = command("build", tmp_path / "raw", "-a", "canny", "-o", tmp_path / "ds")
    assert ended.code == 2
    said = f"'{tmp_path / 'raw'}' holds no pictures, but 1 x skipped: .pdf (a.pdf ...); give a folder"
    assert said in " ".join(ended.err.split())


def test_names_that_arrow_cannot_open_are_a_line(command: Command, raw: Path, tmp_path: Path) -> None:
    """Of a folder whose name is no UTF-8 nothing is written; a dataset that was put there is told by its file."""
    odd = tmp_path / os.fsdecode(b"\xff")
    command("build", raw, "-a", "canny", "--limit", 2, "-o", tmp_path / "ds")
    for arguments in (
        ("build", raw, "-a", "canny", "-o", odd),
        ("curate", tmp_path / "ds", "--drop", "flat", "-o", odd),
        ("verify", tmp_path / "ds", "--checks", "structure", "--scores", odd / "scores.parquet"),
    ):
        ended = command(*arguments)
        assert ended.code == 2
        assert "no UTF-8, and Arrow opens no such file; rename it" in ended.err
    assert not odd.exists()
    (tmp_path / "ds").rename(odd)
    for verb in ("verify", "inspect"):
        ended = command(verb, odd)
        assert (ended.code, "data-00000-of-00001.arrow' has letters" in ended.err) == (2, True)


def test_a_folder_without_a_name_is_a_line(command: Command, raw: Path) -> None:
    """An empty variable of a shell is not the current folder."""
    ended = command("build", raw, "-a", "canny", "-o", "")
    assert (ended.code, 'a folder is called "", which names nothing' in ended.err) == (2, True)


def test_scores_take_the_place_of_scores_alone(command: Command, raw: Path, tmp_path: Path) -> None:
    """A slip that names a dataset's own file loses nothing; scores of before are replaced."""
    command("build", raw, "-a", "canny", "--limit", 2, "--format", "parquet", "-o", tmp_path / "ds")
    (rows,) = (tmp_path / "ds" / "data").glob("*.parquet")
    before = rows.read_bytes()
    verify = ("verify", tmp_path / "ds", "--checks", "structure", "--scores")
    ended = command(*verify, rows)
    assert (ended.code, ended.err) == (2, f"error: {rows} is there, and is no table of scores; choose another name\n")
    assert rows.read_bytes() == before
    for _ in range(2):
        assert command(*verify, tmp_path / "scores.parquet").code == 0
