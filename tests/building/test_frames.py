"""How deep the product is: our own frames between the command and the work."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
from support.command import Command
from support.thorough import slow_ones

import condprep

OURS = str(Path(condprep.__file__).parent)


def own(frame: FrameType | None) -> list[str]:
    """The names of our functions on a stack, generators and lambdas among them, the outermost first."""
    names = []
    while frame:
        if frame.f_code.co_filename.startswith(OURS):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names[::-1]


def waiting_main_thread() -> FrameType:
    """The stack of the main thread, once it waits for what a worker does."""
    for _ in range(100_000):
        stack = sys._current_frames()[threading.main_thread().ident or 0]
        frame: FrameType | None = stack
        while frame := frame and frame.f_back:
            if frame.f_code is Future.result.__code__:
                return stack
        time.sleep(0.01)
    raise AssertionError("the main thread never waits")


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our frames down to each call of cv2.Canny: those of the command, which waits, then those of the worker."""
    taken: list[list[str]] = []
    canny = cv2.Canny

    def spy(*arguments: Any) -> np.ndarray:
        taken.append(own(waiting_main_thread()) + own(sys._getframe()))
        return canny(*arguments)

    monkeypatch.setattr(cv2, "Canny", spy)
    return taken


@pytest.mark.parametrize("options", [(), *slow_ones([("--workers", "1"), ("--fit", "keep"), ("--shard-size", "5")])])
def test_from_the_command_to_the_edges_are_at_most_eight_frames(
    command: Command, raw: Path, tmp_path: Path, stacks: list[list[str]], options: tuple[str, ...]
) -> None:
    """command -> build -> engine -> shard -> stage -> annotator -> canny, for every picture of a build."""
    assert command("build", raw, "-a", "canny", "--out", tmp_path / "ds", "--resolution", "128", *options).code == 0
    assert len(stacks) == 12
    for stack in stacks:
        assert (stack[0], stack[-1]) == ("main", "canny")
        assert len(stack) <= 8, stack
