"""Comparing our readers with the libraries that users trust: many random cases, seeded, and a list of allowed differences."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

CASES = 300
PICTURE = bytes.fromhex(  # a PNG of one pixel: what is compared is which files are read, not what is in them
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
WORDS = (
    "a cat",
    'a "red" car, parked',
    "ein Hündchen",
    "猫",
    "it's; fine",
    "NA",
    "",
    "  spaced ",
    "two\nlines",
    "tab\there",
)

Reasons = Counter[str]  # why a case may differ -> how often


def put(root: Path, name: str, data: bytes = PICTURE) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)


@contextmanager
def quiet() -> Iterator[None]:
    """`datasets` without warnings; its bars are off in all tests."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)


def compare(
    folder: Path,
    make: Callable[[random.Random, Path], Any],
    theirs: Callable[[Path, Any], Any],
    ours: Callable[[Path, Any], Any],
    excuse: Callable[[Any, Any, Any], str | None],
    cases: int = CASES,
) -> Reasons:
    """Each case is made in an empty folder and read twice. make: gives what is known of the case to the others.

    The folder is the same for all, and with it the patterns of names that `datasets` compiles, a quarter of its time.

    excuse(case, theirs, ours): the reason in docs/sources.md why they may differ, else None. An exception is a result, too:
    its message, as a string. Raises AssertionError for a difference without a reason, with its files.
    """
    reasons: Reasons = Counter()
    for seed in range(cases):
        root = folder / "case"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        case = make(random.Random(seed), root)
        with quiet():
            one, other = _result(theirs, root, case), _result(ours, root, case)
        if one == other:
            reasons["same"] += 1
            continue
        reason = excuse(case, one, other)
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        assert reason, f"seed {seed}\nfiles {files}\ncase {case}\ntheirs {one}\nours   {other}"
        reasons[reason] += 1
    return reasons


def _result(read: Callable[[Path, Any], Any], root: Path, case: Any) -> Any:
    try:
        return read(root, case)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
