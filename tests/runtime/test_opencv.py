"""OpenCV in one thread a call while pictures are under way in several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
from skimage import data
from support.pictures import encoded, smooth
from support.thorough import slow_ones

import condprep
from condprep.annotators.canny import Canny
from condprep.runtime.opencv import one_thread_each

OWN = 3  # threads that the host program gave OpenCV


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(OWN)
    yield
    cv2.setNumThreads(before)


def test_users_that_overlap_leave_the_setting_as_it_was() -> None:
    """Whichever of two users leaves last, OpenCV has one thread until then and its own number afterwards."""
    entered, left = Barrier(2), Barrier(2)

    def first() -> None:
        with one_thread_each():
            entered.wait()
        left.wait()

    def second() -> int:
        with one_thread_each():
            entered.wait()
            left.wait()
            return cv2.getNumThreads()

    with ThreadPoolExecutor(2) as pool:
        leaving, staying = pool.submit(first), pool.submit(second)
        leaving.result()
        assert staying.result() == 1
    assert cv2.getNumThreads() == OWN


def test_a_build_runs_opencv_in_one_thread_and_restores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a build OpenCV has one thread a call, for every picture; after it the host's number is back."""
    seen: list[int] = []
    picture = Canny.picture
    monkeypatch.setattr(Canny, "picture", lambda *given: (seen.append(cv2.getNumThreads()), picture(*given))[1])
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / "raw" / f"{number}.jpg").write_bytes(encoded(smooth(96, 96, number)))
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    assert seen == [1, 1, 1]
    assert cv2.getNumThreads() == OWN


def test_edges_do_not_depend_on_the_number_of_threads() -> None:
    """OpenCV finds the same edges in one thread as in several, so a build's bytes are what they were."""
    picture = np.ascontiguousarray(data.astronaut())
    in_several = cv2.Canny(picture, 100, 200)
    with one_thread_each():
        assert np.array_equal(cv2.Canny(picture, 100, 200), in_several)
    assert in_several.any()


FORKED = """
import os, signal, sys
import cv2, numpy as np
import condprep

def use():  # by all threads of OpenCV's pool
    return cv2.GaussianBlur(np.full((2000, 2000, 3), 7, np.uint8), (31, 31), 5)

cv2.setNumThreads(int(sys.argv[1]))
use()
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(100)
condprep.build(sys.argv[2], sys.argv[3], "canny", resolution=64, workers=2)
use()
print(cv2.getNumThreads(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("threads", [4, *slow_ones([1])])
def test_a_build_in_a_forked_child_of_who_used_opencv(tmp_path: Path, threads: int) -> None:
    """A pool's worker, or a DataLoader's, has a parent whose OpenCV has threads, and the child has none of them: a build in it
    neither waits for them nor dies of it, and the number is that of before."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.jpg").write_bytes(encoded(smooth(96, 96, 0)))
    paths = [tmp_path / "raw", tmp_path / "ds"]
    ended = subprocess.run([sys.executable, "-c", FORKED, str(threads), *paths], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, str(threads)), ended.stderr
