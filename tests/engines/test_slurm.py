"""A build as a SLURM array: the script that is printed makes the dataset, with an `sbatch` that runs what it is given."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command import Command
from support.datasets import tree
from support.pictures import smooth

import condprep
from condprep.engines.slurm import array_script
from condprep.errors import UsageError

# Runs the tasks of an array one after the other, the last one first, and a job that depends on it after that.
SBATCH = """#!/bin/sh
"exec" "{python}" "$0" "$@"  # a shell starts Python, whose path may have spaces; Python sees four words
import json, os, pathlib, subprocess, sys
folder, script, given = pathlib.Path(__file__).parent, sys.stdin.read(), sys.argv[1:]
options = dict(one.removeprefix("--").partition("=")[::2] for one in given)
if "partition" in options and options["partition"] == "none":
    sys.exit("sbatch: error: invalid partition specified: none")
(folder / f"job{{len(list(folder.glob('job*')))}}").write_text(json.dumps([given, script]))
first, _, last = options.get("array", "0-0").partition("%")[0].partition("-")
for task in reversed(range(int(first), int(last) + 1)):
    environment = os.environ | ({{"SLURM_ARRAY_TASK_ID": str(task)}} if "array" in options else {{}})
    done = subprocess.run(["bash"], input=script, text=True, cwd=options["chdir"], env=environment, capture_output=True)
    with (folder / "log").open("a") as log:
        log.write(f"{{task}}: {{done.returncode}} {{done.stderr}}\\n")
print(f"{{4711 + ('array' not in options)}};cluster")
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder on PATH in which the stand-in lies, with what it was given and a log of what came of it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(SBATCH.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(condprep.__file__).parents[1]))
    return folder


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of three pictures, in which a shell would see much, and in which we are."""
    name = 'it\'s $HOME; `a` "b" -c*\nEND\n'
    (tmp_path / name).mkdir()
    for seed in range(3):
        Image.fromarray(smooth(64, 64, seed)).save(tmp_path / name / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.slow
def test_the_printed_script_makes_the_bytes_of_one_build(
    odd: str, sbatch: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word of the command arrives as it was given; the parts, then the dataset; options of sbatch go through."""
    options = ("--annotator", "canny", "--set", "canny.low=50", "--resolution", 64, "--shard-size", 2, "--workers", 1)
    slurm = ("--engine", "slurm", "--parts", 2, "--slurm-option=--time=1:00:00", "--slurm-option=--array=0-1%1")
    run = command("build", odd, "-o", f"{odd}/../ds {odd}", *options, "--max-rejects", 0.5, *slurm)
    assert run.code == 0, run.err
    monkeypatch.chdir("/")
    done = subprocess.run(["bash"], input=run.out, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "parts: job 4711\nfinish: job 4712\n"), done.stderr
    jobs = [json.loads(path.read_text()) for path in sorted(sbatch.glob("job*"))]
    assert [one for one in jobs[0][0] if one.startswith("--array")] == ["--array=0-1%1"]
    assert {"--dependency=afterany:4711", "--time=1:00:00"} <= set(jobs[1][0])
    assert "--max-rejects=0.5" in jobs[1][1]
    assert "--max-rejects" not in jobs[0][1]
    assert [line[:4] for line in (sbatch / "log").read_text().splitlines() if line[1:3] == ": "] == [
        "1: 0",
        "0: 0",
        "0: 0",
    ]
    monkeypatch.chdir(tmp_path)
    condprep.build(odd, "one", "canny", params={"canny": {"low": "50"}}, resolution=64, shard_rows=2)
    assert tree(tmp_path / f"{odd}/../ds {odd}") == tree(tmp_path / "one")


def test_what_sbatch_refuses_is_told(odd: str, sbatch: Path, command: Command) -> None:
    """--submit ends with sbatch's own words."""
    given = (
        "-a",
        "canny",
        "-o",
        "ds",
        "--engine",
        "slurm",
        "--parts",
        2,
        "--submit",
        "--slurm-option=--partition=none",
    )
    run = command("build", odd, *given)
    assert (run.code, "invalid partition specified: none" in run.err) == (1, True)
    assert not Path("ds").exists()


def test_without_sbatch_it_says_so(odd: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both --submit and the script that was printed."""
    given = ("build", odd, "-a", "canny", "-o", "ds", "--engine", "slurm", "--parts", 2)
    script = command(*given).out
    bash = subprocess.run(["bash", "-c", "command -v bash"], capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("PATH", str(tmp_path))
    run = command(*given, "--submit")
    assert (run.code, "there is no sbatch on this machine" in run.err) == (2, True)
    done = subprocess.run([bash], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "there is no sbatch on this machine\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "slurm"), "--parts N"),
        (("--engine", "slurm", "--parts", 2, "--into"), "--into has no meaning with --engine slurm"),
        (("--engine", "slurm", "--parts", 2, "--overwrite"), "--overwrite has no meaning with --engine slurm"),
        (("--parts", 2), "--parts has a meaning with --engine slurm alone"),
        (("--submit",), "--submit has a meaning with --engine slurm alone"),
        (("--engine", "slurm", "--parts", 2, "--slurm-option", "gpu"), "'gpu' is no option of sbatch"),
        (("--engine", "slurm", "--parts", 2, "--resolution", 65), "--resolution = 65"),
    ],
)
def test_a_slip_is_told_before_a_job_is_queued(command: Command, options: tuple[Any, ...], says: str) -> None:
    """What goes with another engine, is missing, or would end every task."""
    run = command("build", "raw", "-a", "canny", "-o", "ds", *options)
    assert (run.code, run.out) == (2, "")
    assert says in run.err


def test_no_word_ends_the_script_of_a_job() -> None:
    """A word that holds the end of a here-document moves that end."""
    script = array_script(["build", "END\n", "END_"], ["finish", "ds"], 3)
    assert "<<'END__'\n" in script
    assert script.count("\nEND__\n") == 1
    assert subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True).stderr == ""


def test_options_are_words_of_the_shell() -> None:
    """What is passed through is one word, whatever it holds; what is none is an error."""
    script = array_script(["b"], ["f"], 3, ["--comment=a b; rm $HOME"])
    assert shlex.quote("--comment=a b; rm $HOME") in script
    with pytest.raises(UsageError, match="no option of sbatch"):
        array_script(["b"], ["f"], 3, ["gpu"])
