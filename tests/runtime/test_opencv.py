"""OpenCV in one thread a call while pictures are under way in several."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
from skimage import data
from support.pictures import encoded, smooth

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
