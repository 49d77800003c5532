"""CONTRIBUTING.md and the rooms: the map has every room, the walks name what there is, each room says who may call it."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in ("condprep", "trainer")
    for path in (ROOT / package).glob("*/__init__.py")
)
STEPS = sorted(set(re.findall(r"`((?:condprep|trainer)[\w.]*:[\w.]+)`", GUIDE)))


def test_the_map_has_every_room_and_no_other():
    """The table of CONTRIBUTING.md names each folder of both packages once, and none that is not there."""
    assert sorted(re.findall(r"^\| `((?:condprep|trainer)/\w+)/` \|", GUIDE, re.MULTILINE)) == ROOMS


@pytest.mark.parametrize("step", STEPS)
def test_the_walks_name_what_there_is(step: str):
    """Each `module:name` of a walk can be imported: a newcomer who follows it finds the function."""
    module, name = step.split(":")
    assert callable(attrgetter(name)(import_module(module)))


def test_both_ways_are_walked():
    """The walks are there: the test before sees nothing where no step is named."""
    assert {step.split(".")[0] for step in STEPS} == {"condprep", "trainer"}
    assert len(STEPS) >= 20


@pytest.mark.parametrize(
    "path",
    [path for package in ("condprep", "trainer") for path in sorted((ROOT / package).rglob("*/__init__.py"))],
    ids=lambda path: path.parent.relative_to(ROOT).as_posix(),
)
def test_a_room_says_what_it_is_for_and_holds_nothing_else(path: Path):
    """A room's `__init__.py` is its docstring: what comes in, what goes out, who calls it; names are imported from files."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = ast.get_docstring(tree) or ""
    assert len(tree.body) == 1, "code belongs into a file with a name"
    assert re.search(r"\bIn\b", said)
    assert re.search(r"\b[Oo]ut\b", said)
    assert re.search(
        r"\b([Cc]alled|[Ll]oaded|[Oo]pened|Written|[Uu]sed)\b.* by\b|\bCalled as\b|\bCalled through\b", said, re.DOTALL
    )
