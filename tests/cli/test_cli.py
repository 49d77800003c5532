"""The command line: exit codes, messages without stack traces, results on stdout, and a quick start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from support.command import Command, python

import condprep
from condprep.cli import console
from condprep.cli.progress import progress
from condprep.runtime.progress import Progress
from condprep.weights.pins import PINS

HEAVY = ("torch", "datasets", "cv2", "numpy", "scipy", "pyarrow", "transformers", "huggingface_hub", "PIL")
VERBS = (
    "build",
    "inspect",
    "verify",
    "annotate",
    "annotators",
    "doctor",
    "weights",
    "weights list",
    "weights pull",
    "weights where",
)
SMALL = ("--resolution", "128")


@pytest.fixture
def photo(raw: Path) -> Path:
    return raw / "group1" / "01.png"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import condprep", (*HEAVY, "pydantic", "typer", "rich")),
        ("from condprep.cli.main import app; app(['--help'], standalone_mode=False)", (*HEAVY, "pydantic")),
        (
            "from condprep.cli.main import app; app(['build', '--help'], standalone_mode=False)",
            HEAVY,
        ),  # typer uses pydantic
    ],
)
def test_the_start_imports_nothing_heavy(statement: str, unwanted: Sequence[str]) -> None:
    """`import condprep` and `--help` load neither torch nor anything else that takes long."""
    check = f"import sys; print([name for name in {unwanted!r} if name in sys.modules])"
    ended = python("-c", f"{statement}\n{check}")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "[]"


def test_a_canny_build_needs_neither_torch_nor_pandas(photo: Path, tmp_path: Path) -> None:
    """Canny, resizing included, runs without the two seconds that importing them takes."""
    arguments = ["build", str(photo.parent), "--resolution", "64", "-a", "canny", "--out", str(tmp_path / "ds")]
    command = f"import sys; from condprep.cli.main import app; app({arguments}, standalone_mode=False)"
    ended = python("-c", f"{command}\nprint({{'torch', 'pandas'}} & sys.modules.keys())")
    assert ended.code == 0, ended.err
    if find_spec("cykooz_resizer"):
        assert ended.out.splitlines()[-1] == "set()"


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """`python -m condprep`: results on stdout, a mistake as one line on stderr and exit code 2."""
    assert python("-m", "condprep", "--version").out == f"condprep {condprep.__version__}\n"
    ended = python("-m", "condprep", "build", str(tmp_path), "-a", "cany", "--out", str(tmp_path / "ds"), COLUMNS="80")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: unknown annotator 'cany'; did you mean canny?")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(command: Command, verb: str) -> None:
    """--help of each verb ends with 0 and names it."""
    ended = command(*verb.split(), "--help")
    assert ended.code == 0
    assert f"condprep {verb}" in ended.out


def test_a_build_from_the_command_line(command: Command, raw: Path, tmp_path: Path) -> None:
    """0, the summary on stdout, and a dataset; the same command again says that it is all done."""
    arguments = ("build", raw, "--annotator", "canny", "--out", tmp_path / "ds", *SMALL)
    ended = command(*arguments)
    assert (ended.code, ended.err) == (0, "")
    assert "12 = 12 rows + 0 rejected" in ended.out
    assert "canny; low = 100; high = 200; Apache-2.0" in ended.out
    assert load_from_disk(str(tmp_path / "ds"))["train"].num_rows == 12
    assert "12 done before" in command(*arguments).out


def test_json_counts_every_input(command: Command, raw: Path, tmp_path: Path) -> None:
    """--json prints JSON alone, in which inputs = rows + rejects, also when the build fails."""
    (raw / "bad.jpg").write_text("no picture")
    arguments = ("build", raw, "-a", "canny", "--out", tmp_path / "ds", *SMALL, "--json")
    for code, more in ((0, ()), (1, ("--max-rejects", "0.01"))):
        ended = command(*arguments, *more)
        assert ended.code == code
        result = ended.json
        assert result["inputs"] == 13 == sum(result["rows"].values()) + sum(result["rejects"].values())
        assert next(iter(result["rejects"])).startswith("decode: not a picture")
    assert "1 of 13 inputs (7.7%) were rejected, more than 1.0%" in ended.err


def test_all_bad_is_a_failure(command: Command, tmp_path: Path) -> None:
    """Nothing built: 1, with the reasons and the counts."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "bad.jpg").write_bytes(b"")
    ended = command("build", tmp_path / "raw", "-a", "canny", "--out", tmp_path / "ds")
    assert ended.code == 1
    assert "error: none of 1 inputs became a row of the training split: decode: empty file (1)" in ended.err
    assert "1 = 0 rows + 1 rejected" in ended.out


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
        (["build", "RAW", "-a", "canny"], "--out"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--resolutoin", "512"], "--resolution"),
        (["build", "RAW", "-a", "canny", "--out", "OUT", "--fit", "stretch"], "keep"),
        (["biuld", "RAW"], "build"),
        (["inspect", "OUT"], "no such folder"),
        (["inspect", "RAW"], "holds no dataset"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT"], "either annotators (--annotator) or a dataset"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT", "--like", "RAW"], "no dataset made by condprep"),
        (["annotate", "RAW/group1/01.png", "-o", "OUT", "--like", "RAW", "--fit", "pad"], "leave out --set"),
        (["annotate", "RAW/group1/01.png", "-a", "canny", "-o", "RAW/group1/01.png"], "choose another --out"),
        (["weights", "where", "ControlNetHD.pth"], "did you mean ControlNetHED.pth?"),
        (["weights", "pull", "ControlNetHD.pth"], "did you mean ControlNetHED.pth?"),
    ],
)
def test_mistakes_end_with_2(command: Command, raw: Path, tmp_path: Path, arguments: Sequence[str], says: str) -> None:
    """A user's mistake: exit code 2, the thing and the remedy on stderr, nothing on stdout, no dataset begun."""
    paths = {"RAW": str(raw), "OUT": str(tmp_path / "out")}
    filled = [paths.get(a, a.replace("RAW/", f"{raw}/")) for a in arguments]
    ended = command(*filled)
    assert (ended.code, ended.out) == (2, "")
    assert says in " ".join(ended.err.split())
    assert not (tmp_path / "out" / ".condprep" / "plan.json").exists()


@pytest.mark.parametrize("verb", ["build", "annotate"])
def test_a_folder_that_cannot_be_made_is_a_line(command: Command, raw: Path, photo: Path, verb: str) -> None:
    """An output folder below a file cannot be made: said in a line that names it, without a stack trace."""
    source = raw if verb == "build" else photo
    ended = command(verb, source, "-a", "canny", "--out", photo / "below", *SMALL)
    assert ended.code in (1, 2)
    assert ended.err.startswith("error: ")
    assert "01.png" in ended.err


def test_annotate_writes_maps_of_the_pictures_size(command: Command, raw: Path, tmp_path: Path) -> None:
    """One PNG a picture, of its size, listed on stdout; one that cannot be read is named and the exit code is 1."""
    pictures = sorted(raw.rglob("*.png"))
    ended = command("annotate", *pictures, "-a", "canny", "-o", tmp_path / "maps")
    assert ended.code == 0
    written = [Path(line) for line in ended.out.splitlines()]
    assert written == [tmp_path / "maps" / picture.name for picture in pictures]
    assert [Image.open(path).size for path in written] == [Image.open(path).size for path in pictures]
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
    options = ("--fit", fit, "--set", "canny.low=30", "--image-format", "png", *SMALL)
    assert command("build", raw, "-a", "canny", "--out", tmp_path / "ds", *options).code == 0
    assert command("annotate", photo, "--like", tmp_path / "ds", "-o", tmp_path / "maps", "--pictures").code == 0
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    row = rows[rows["source"][:].index("group1/01.png")]
    for column, name in (("conditioning_image", "01.png"), ("image", "01.image.png")):
        written = Image.open(tmp_path / "maps" / name)
        np.testing.assert_array_equal(np.asarray(written), np.asarray(row[column].convert(written.mode)))


def test_inspect_tells_what_was_built(command: Command, raw: Path, tmp_path: Path) -> None:
    """`inspect`: rows, sizes and provenance, in words and as JSON; the sheet is a picture."""
    command("build", raw, "-a", "canny", "--out", tmp_path / "ds", "--validation", "0.4", *SMALL)
    ended = command("inspect", tmp_path / "ds", "--sheet", tmp_path / "sheet.png", "--rows", "4")
    assert ended.code == 0
    assert "128 x 128" in ended.out
    assert "canny" in ended.out
    assert Image.open(tmp_path / "sheet.png").size[0] > 500
    summary = command("inspect", tmp_path / "ds", "--json").json
    assert sum(summary["rows"].values()) == 12
    assert summary["sizes"] == {"128 x 128": 12}
    assert summary["provenance"]["annotators"][0]["annotator"] == "canny"


def test_annotators_are_listed(command: Command) -> None:
    """`annotators`: each with its variants and its licence; non-commercial ones say so."""
    ended = command("annotators")
    assert ended.code == 0
    for word in ("canny:random", "--set canny.low=", "openpose:blaze", "non-commercial"):
        assert word in ended.out
    rows = {row["name"]: row for row in command("annotators", "--json").json}
    assert rows["canny"]["parameters"].keys() == {"low", "high"}
    assert rows["openpose"]["weights"]["cmu"] == ["body_pose_model.pth"]


def test_weights_are_listed_and_found(command: Command, tmp_path: Path) -> None:
    """`weights list` has every pinned file and where it lies; `weights where` a user's own, and 1 for a missing one."""
    (tmp_path / "hand_pose_model.pth").write_bytes(b"my own")
    rows = {row["name"]: row for row in command("weights", "list", "--weights", tmp_path, "--json").json}
    assert rows.keys() == {pin.name for pin in PINS}
    assert rows["hand_pose_model.pth"]["path"] == str(tmp_path / "hand_pose_model.pth")
    assert rows["hand_pose_model.pth"]["commercial"] is False
    ended = command("weights", "list", "--weights", tmp_path)
    assert "hand_pose_" in ended.out
    ended = command("weights", "where", "hand_pose_model.pth", "--weights", tmp_path)
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "hand_pose_model.pth"))
    assert "not the published hand_pose_model.pth but your own" in ended.err


def test_missing_weights_end_with_1(
    command: Command, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are neither here nor reachable: 1, with the command that gets them on another machine."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("condprep.weights.hub.download", _no_network)
    ended = command("weights", "where", "ControlNetHED.pth")
    assert ended.code == 1
    assert "condprep weights pull ControlNetHED.pth" in ended.err
    ended = command("build", raw, "-a", "openpose:cmu", "--out", tmp_path / "ds")
    assert ended.code == 1
    assert "condprep weights pull body_pose_model.pth --to DIR" in ended.err


def _no_network(*_: object) -> None:
    raise OSError("no network")


def test_doctor_says_what_it_looked_at(command: Command, tmp_path: Path) -> None:
    """`doctor`: one finding each for Python, the packages, the disk and more, in words and as JSON."""
    ended = command("doctor", tmp_path)
    findings = command("doctor", tmp_path, "--json").json
    assert {"python", "packages", "opencv", "disk", "memory"} <= {finding["what"] for finding in findings}
    assert ended.code == any(finding["level"] == "error" for finding in findings)
    assert "python" in ended.out


def test_progress_is_plain_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a file: a line every ten seconds with the counts, the rate and the time left, and no control characters."""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress() as advance:
        for done in range(21):
            advance(Progress("build", done, 20, rejects=done // 10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "build: 3/20, 0 rejected, 0.2/s, 68 s left"
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as long as they are: what a narrow terminal folds is not what is tested."""
    monkeypatch.setenv("COLUMNS", "300")
    for one in (console.out, console.err):
        monkeypatch.setattr(one, "_width", 300)
