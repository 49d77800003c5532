"""CONTRIBUTING.md and the rooms: the map has every room, the walks name what there is, each room says who may call it; how tests are dealt."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dealing import dealt

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


@pytest.mark.slow
def test_files_and_functions_stay_small():
    """No file has more than 350 lines, no function more than 60 with its signature and docstring; half have at most 8."""
    long, lengths = [], []
    for folder in ("bench", "condprep", "examples", "tests", "trainer"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if (lines := text.count("\n")) > 350:
                long.append(f"{path}: {lines} lines")
            for one in ast.walk(ast.parse(text)):
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                    lengths.append((one.end_lineno or 0) - one.lineno + 1)
                    long += [f"{path}:{one.lineno}: {one.name}"] * (lengths[-1] > 60)
    assert long == []
    assert median(lengths) <= 8


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4))
def test_every_process_begins_with_modules_of_its_own(lengths: list[int], processes: int):
    """conftest.py deals slow modules out: of the equal parts that pytest-xdist makes of its list each begins with another one,
    and no test is lost or doubled."""
    modules = [[(number, test) for test in range(length)] for number, length in enumerate(lengths)]
    tests = dealt(modules, processes)
    assert sorted(tests) == [test for module in modules for test in module]
    first = 0
    for number, module in enumerate(modules[:processes]):
        size = (len(tests) - first) // (processes - number)
        assert tests[first : first + min(size, len(module))] == module[:size]
        first += size
