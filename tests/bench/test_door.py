"""`python -m bench`: every bench is listed with what it measures, and found by its name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from support.command import python

from bench.__main__ import benches, main
from bench.gpu.parts import PARTS

ROOT = Path(__file__).parents[2]


def test_every_bench_is_listed_with_one_line() -> None:
    """What has a `main` in bench/ is listed with a sentence; what has none is a part of others."""
    listed = benches()
    assert {"annotators", "build", "gpu", "memory", "train", "verify-poses"} <= listed.keys()
    assert "coco" not in listed
    assert all(len(line) > 20 for line in listed.values())


def test_the_list_loads_no_bench() -> None:
    """Neither torch nor numpy: the list is there at once."""
    code = "import sys; from bench.__main__ import main; main(['--list']); print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = python("-c", code, PYTHONPATH=str(ROOT))
    assert run.out.splitlines()[-1] == "False False"
    assert "\ngpu  " in run.out


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    """A slip costs no guess."""
    with pytest.raises(SystemExit, match=r"no bench is called biuld: it is one of .*build"):
        main(["biuld"])


def test_the_documents_name_benches_that_exist() -> None:
    """`python -m bench NAME` in a document, the Makefile or a module is a bench."""
    import re

    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile", *(ROOT / "condprep").rglob("*.py")]
    named = {
        name for file in files for name in re.findall(r"-m bench ([a-z][a-z-]+)", file.read_text(encoding="utf-8"))
    }
    assert named <= benches().keys()
    assert "build" in named


@pytest.mark.parametrize("name", [*benches(), *(f"gpu.{part}" for part in PARTS), "gpu.rehearse"])
def test_a_bench_can_be_loaded(name: str) -> None:
    """What it needs of the packages is there, under the names that it knows."""
    module = import_module(f"bench.{name.replace('-', '_')}")
    assert callable(getattr(module, "main", None) or getattr(module, "measure", None) or module.rehearse)
