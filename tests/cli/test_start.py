"""How the command line starts: quickly, with help for every verb that a terminal of 80 columns holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.command import Command, python

import condprep
from condprep.curation.drops import DROPS
from condprep.verification.check import thresholds
from condprep.verification.groups import groups

STARTING = {
    "__main__",
    "_distutils_hack",
    "sitecustomize",
    "usercustomize",
    "_virtualenv",
}  # Python's and its environment's
OF_CONDPREP = {
    *("condprep.errors", "condprep.types", "condprep.annotators", "condprep.annotators.protocol"),
    *("condprep.dataset", "condprep.dataset.records", "condprep.runtime", "condprep.runtime.files"),
    *(
        "condprep.runtime.malloc",
        "condprep.runtime.own",
        "condprep.runtime.openmp",
        "condprep.runtime.progress",
        "condprep.runtime.text",
    ),
}
OF_TRAINER = {
    *("trainer.errors", "trainer.types", "trainer.inference", "trainer.inference.pipeline"),
    *("trainer.inference.checkpoint_folder", "trainer.models", "trainer.models.kinds"),
    *("trainer.recipe", "trainer.recipe.layout"),
}
VERBS = ("build", "inspect", "verify", "curate", "report", "annotate", "annotators", "doctor", "weights")
BELOW_WEIGHTS = ("weights list", "weights pull", "weights where")


def loaded(statement: str) -> tuple[set[str], set[str]]:
    """What Python has imported after a statement: packages of others, and our modules that are in no `cli`."""
    listing = "import json, sys; print(json.dumps([*sys.modules]))"
    ended = python("-c", f"{statement}\n{listing}")
    assert ended.code == 0, ended.err
    names = set(json.loads(ended.out.splitlines()[-1]))
    ours = {name for name in names if name.startswith(("condprep.", "trainer."))}
    others = {name.partition(".")[0] for name in names - ours} - sys.stdlib_module_names - {"condprep", "trainer"}
    return others - STARTING, {name for name in ours if ".cli" not in name}


def test_importing_imports_nothing() -> None:
    """`import condprep` loads the table of public names, and no package of anybody else."""
    assert loaded("import condprep") == (set(), set())


@pytest.mark.parametrize(
    ("program", "arguments", "further"),
    [
        ("condprep", ["--help"], set()),
        ("condprep", ["build", "--help"], set()),
        ("trainer", ["--help"], OF_TRAINER),
        ("trainer", ["train", "--help"], OF_TRAINER),
    ],
)
def test_help_imports_nothing_heavy(program: str, arguments: Sequence[str], further: set[str]) -> None:
    """`--help`, of a verb too, imports typer and what stands here: none of it takes long, torch, rich or pydantic would."""
    others, ours = loaded(f"from {program}.cli.main import app; app({arguments!r}, standalone_mode=False)")
    assert others <= {"typer", "click", "annotated_doc", "shellingham", "typing_extensions", "colorama"}
    assert ours <= OF_CONDPREP | further


def test_a_canny_build_imports_nothing_that_it_does_not_need(photo: Path, tmp_path: Path) -> None:
    """Canny of a folder, resizing included: neither torch and pandas, two seconds, nor what foreign tables and clusters need."""
    arguments = ["build", str(photo.parent), "--resolution", "64", "-a", "canny", "--out", str(tmp_path / "ds")]
    command = f"import sys; from condprep.cli.main import app; app({arguments}, standalone_mode=False)"
    needless = {"torch", "pandas", "pyarrow.compute", "fsspec", "condprep.engines.ray_fleet"}
    ended = python("-c", f"{command}\nprint({needless} & sys.modules.keys())")
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


@pytest.mark.parametrize("verb", [*VERBS, *BELOW_WEIGHTS])
def test_every_verb_has_help(command: Command, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """--help of each verb ends with 0, names it, and has no line that 80 columns cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    ended = command(*verb.split(), "--help")
    assert ended.code == 0
    assert f"condprep {verb}" in ended.out
    assert "…" not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["verify", "curate"])
def test_help_has_every_name(command: Command, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Checks, thresholds and the names of --drop are in --help, all that there are and no others."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = " ".join(command(verb, "--help").out.split())
    for group in groups():
        assert f"{group.name}: {', '.join(thresholds(group))}" in shown
    assert (f"Names of --drop: {', '.join(DROPS)}" in shown) == (verb == "curate")


@pytest.mark.parametrize("module", ["condprep", "trainer"])
def test_an_interruption_while_it_starts_is_a_line(module: str) -> None:
    """Ctrl-C before the command is loaded: exit code 1 and one line, as later, not the stack of an import."""
    start = f"import os, signal, sys; sys.modules['{module}.cli.main'] = Nothing = type('N', (), {{}})()\n"
    start += "Nothing.main = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
    ended = python("-c", start + f"import {module}.cli; from {module}.__main__ import main; main()")
    assert (ended.code, ended.out, ended.err) == (1, "", "error: stopped\n")


@pytest.mark.parametrize("module", ["condprep", "trainer"])
def test_names_are_utf8_in_any_locale(module: str) -> None:
    """Where Python would read names as ASCII, or as Latin 1, the command begins anew, with the same arguments, and reads UTF-8."""
    start = f"import sys; sys.modules['{module}.cli.main'] = Nothing = type('N', (), {{}})()\n"
    start += "Nothing.main = lambda: print(sys.argv[1:], sys.getfilesystemencoding())\n"
    start += f"import {module}.cli; from {module}.__main__ import main; main()"
    ended = python("-c", start, "nö", "-X", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (ended.code, ended.out, ended.err) == (0, "['nö', '-X'] utf-8\n", "")


def test_the_bare_command_lists_its_verbs(command: Command) -> None:
    """`condprep` alone is a mistake that shows what there is."""
    ended = command()
    assert ended.code == 2
    assert all(f" {verb} " in ended.out + ended.err for verb in VERBS)
