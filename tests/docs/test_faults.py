"""Codes of rejects are promises: each that is used is one of the table, and the page on faults has the same table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from condprep.errors import GENERAL, REJECTS, Rejected

ROOT = Path(__file__).parents[2]


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls of that name in the package, with where they are."""
    for path in sorted((ROOT / "condprep").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_the_page_has_every_code_and_what_it_means() -> None:
    """docs/faults.md lists the codes in the words of the program."""
    listed = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    assert dict(listed) == REJECTS
    assert len(listed) == len(REJECTS)


def test_whoever_rejects_says_a_code_of_the_table() -> None:
    """No reject of condprep is counted with a code that stands for others: each call names its own, and a known one."""
    found = {where: {word.arg: word.value for word in call.keywords} for where, call in calls("Rejected")}
    assert len(found) > 30
    for where, keywords in found.items():
        assert "code" in keywords, where
        if isinstance(code := keywords["code"], ast.Constant):
            assert code.value in REJECTS, where


def test_an_entry_with_a_problem_has_its_code() -> None:
    """What a source lists as a reject to come is counted like any other."""
    found = [(where, {word.arg for word in call.keywords}) for where, call in calls("Entry")]
    assert found
    for where, words in found:
        assert {"problem", "code"}.isdisjoint(words) or {"problem", "code"} <= words, where


@pytest.mark.parametrize("stage", GENERAL)
def test_a_reject_of_others_that_says_none_has_one(stage: str) -> None:
    """An annotator's `Rejected("annotate", reason)` needs no code."""
    assert Rejected(stage, "why").code == GENERAL[stage]
    assert GENERAL[stage] in REJECTS
    assert Rejected(stage, "why", code="my-own").code == "my-own"
