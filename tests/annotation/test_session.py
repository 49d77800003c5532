"""condprep.Session: loaded once a process, described when it is handed on, usable from threads and forked processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.counting import edges, install

from condprep import Session, annotate
from condprep.annotation import session as module
from condprep.annotation.pictures import Annotated
from condprep.errors import AnnotatorError, UsageError
from condprep.types import Reject


def picture(number: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)


def pixels(result: Annotated | Reject, column: str = "counting") -> np.ndarray:
    assert isinstance(result, Annotated), result
    return np.asarray(result.maps[column])


def test_a_session_loads_once_and_annotate_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded before the first call, and nothing again at later ones; the maps are annotate's."""
    counting = install(monkeypatch)
    session = Session("counting")
    assert counting.loads == []
    results = [session([picture(number)])[0] for number in range(3)]
    assert counting.loads == ["cpu"]
    for number, result in enumerate(results):
        np.testing.assert_array_equal(pixels(result), picture(number)[..., 1])
        np.testing.assert_array_equal(pixels(annotate([picture(number)], "counting")[0]), pixels(result))
    assert len(counting.loads) == 4


def test_filters_and_networks_in_one_session(monkeypatch: pytest.MonkeyPatch, raw: Path) -> None:
    """What threads draw and what networks look at in batches end up with their own picture, in order, whatever its shape."""
    install(monkeypatch)
    paths = sorted(raw.rglob("*.[jpw]*")) * 2
    results = Session(["canny", "counting"], workers=3)(paths)
    alone = Session("canny")
    for path, result in zip(paths, results, strict=True):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(pixels(result), rgb[..., 1])
        np.testing.assert_array_equal(pixels(result, "canny"), pixels(alone([path])[0], "canny"))


def test_any_kind_of_picture_and_none(raw: Path) -> None:
    """What `datasets` stores of a picture is read as its bytes or its file; what is no picture is a reject in its place."""
    path = raw / "group1" / "01.png"
    stored = [
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        bytearray(path.read_bytes()),
    ]
    good = Session("canny")([path, *stored])
    assert len({pixels(result, "canny").tobytes() for result in good}) == 1
    rejects = Session("canny")(
        [None, {"bytes": None, "path": None}, 7, {"path": "gone.png"}, np.zeros((0, 4, 3), np.uint8)]
    )  # type: ignore[list-item]
    assert [one.source for one in rejects if isinstance(one, Reject)] == [
        *(f"picture {n}" for n in range(3)),
        "gone.png",
        "picture 4",
    ]
    assert [one.stage for one in rejects if isinstance(one, Reject)] == ["read", "read", "read", "read", "decode"]


def test_one_picture_many_times(raw: Path) -> None:
    """A PIL picture that is not decoded yet may be in the list any number of times: threads take turns to read its file."""
    with Image.open(raw / "group1" / "01.png") as picture:
        results = Session("canny", workers=8)([picture] * 40)
    assert len({pixels(result, "canny").tobytes() for result in results}) == 1


def test_mistakes_are_told_when_it_is_made(raw: Path) -> None:
    """An unknown name, a wrong parameter or size, two ways to say what is wanted: before anything is loaded."""
    for wrong in ({"annotators": "cany"}, {}, {"annotators": "canny", "params": {"canny": {"low": -1}}}, {"annotators": "canny", "resolution": 0}, {"annotators": "canny", "like": raw}):  # fmt: skip
        with pytest.raises(UsageError):
            Session(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"give a list of them"):
        Session("canny")({"bytes": b"", "path": None})  # type: ignore[arg-type]


def test_it_pickles_as_what_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded or not, it is a few hundred bytes, and unpickled in the same process it is itself."""
    counting = install(monkeypatch)
    session = Session("counting", params={}, fit="crop", resolution=64)
    before = pickle.dumps(session)
    session([picture(0)])
    assert pickle.dumps(session) == before
    assert len(before) < 1000
    assert pickle.loads(before) is session
    again = [pickle.loads(pickle.dumps(Session("counting", workers=2))) for _ in range(3)]
    assert [len(one([picture(1)])) for one in again] == [1, 1, 1]
    assert counting.loads == ["cpu", "cpu"]


def test_threads_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called by many threads at once it loads once, and each has the maps of its own pictures."""
    counting = install(monkeypatch)
    session = Session("counting")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: session([picture(n), picture(n + 100)]), range(32)))
    for number, results in enumerate(found):
        for n, result in zip((number, number + 100), results):
            np.testing.assert_array_equal(pixels(result), picture(n)[..., 1])
    assert counting.loads == ["cpu"]


@pytest.mark.slow
def test_processes_that_were_spawned_have_it() -> None:
    """Another process makes the same map from what it was handed."""
    session = Session("canny", params={"canny": {"low": 20}})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(edges, (session, picture(0))).get(timeout=1800) == edges(session, picture(0))


FORKED = """
import datasets, multiprocessing, numpy, sys, torch
from pathlib import Path
import condprep
from condprep.annotators import registry
from condprep.annotators.base import BaseAnnotator

torch.set_num_threads(2)

class Network(BaseAnnotator):
    name, variant, device, batch_size, binary, columns = "network", "", "cpu", 4, False, {}
    provenance = {"parameters": {}, "weights": {}, "licence": "none", "commercial": True}
    def __init__(self):
        self.network = torch.nn.Conv2d(3, 32, 3, padding=1)
    @torch.inference_mode()
    def annotate(self, rgb, keys):
        self.network(rgb.float())
        return condprep.Maps(rgb[:, :1])

spec = condprep.AnnotatorSpec("network", "", load=lambda *_, **__: Network())
registry.BUILTIN = (*registry.BUILTIN, spec)
pictures = [numpy.full((256, 256, 3), n, numpy.uint8) for n in range(8)]

annotator = condprep.load_annotator("network")
session = condprep.Session(["network", "canny"])
session(pictures)  # OpenMP's threads, OpenCV's and ours have been at work

def bare(batch):
    rgb = torch.from_numpy(numpy.stack(pictures[:2])).permute(0, 3, 1, 2)
    return {"first": annotator(rgb, ["", ""]).maps[:, 0, 0, 0].tolist()}

def brightness(chunk):
    return [numpy.asarray(one.maps["network"]).max() for one in session(chunk)]

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert [*pool.map(brightness, [pictures[:4], pictures[4:]])] == [[0, 1, 2, 3], [4, 5, 6, 7]]
rows = datasets.Dataset.from_dict({"n": [1, 2, 3, 4]})
mapped = rows.map(bare, batched=True, batch_size=2, num_proc=2)
assert mapped["first"][:] == [0, 1, 0, 1], mapped["first"][:]
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_processes_that_were_forked_have_it(tmp_path: Path) -> None:
    """`datasets.map(num_proc=2)` with a loaded network, and a pool with a session that was called, come to their end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", FORKED], env=environment, timeout=1800, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1:] == ["done"], ran.stderr


def test_other_weights_and_versions_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process described loads only the same weights, by the same condprep; both are named otherwise."""
    install(monkeypatch, **{"a.pth": "abc"})
    described = Session("counting").description
    assert module.described(replace(described, found={"counting": {"a.pth": "abc"}})).annotators.keys() == {"counting"}
    with pytest.raises(
        AnnotatorError, match=r"has the weights {'a.pth': 'xyz'}, here are {'a.pth': 'abc'}: give every"
    ):
        module.described(replace(described, found={"counting": {"a.pth": "xyz"}})).load()
    with pytest.raises(AnnotatorError, match=r"has the weights {'a.pth': None}, here are"):
        module.described(replace(described, found={"counting": {"a.pth": None}})).load()
    with pytest.raises(AnnotatorError, match=r"a session of condprep 9\.9\.9 was handed to condprep 0\."):
        module.described(replace(described, version="9.9.9")).load()


def test_the_description_has_the_weights_that_are_here(tmp_path: Path) -> None:
    """It finds and hashes weights without loading them: a file's own sha256; None where another variant may stand in."""
    from condprep import Weights

    (tmp_path / "ControlNetHED.pth").write_bytes(b"mine")
    own = Session("hed", weights=Weights(tmp_path, offline=True, say=lambda _: None)).description.resolved()
    none = Session("hed", weights=Weights(offline=True)).description.resolved()
    assert [len(own.found["hed"]["ControlNetHED.pth"] or ""), none.found["hed"]] == [64, {"ControlNetHED.pth": None}]
    assert Session("canny").description.resolved().found == {"canny": {}}


def test_a_gpu_that_was_used_before_the_fork_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that its parent had loaded onto a GPU says what to do, and rejects no pictures for it."""
    install(monkeypatch)
    session = Session("counting")
    session.annotators["counting"].device = "cuda"
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(AnnotatorError, match="start processes by spawn"):
        session([picture(0)])


QUIET = """
import logging, sys
import condprep
condprep.Session, condprep.as_map, condprep.RayAnnotator
assert "torch" not in sys.modules, "torch"
assert "ray" not in sys.modules and "datasets" not in sys.modules
condprep.Session("canny")([b"no picture"])
condprep.as_map("canny")
assert not logging.getLogger().handlers and not logging.getLogger("condprep").handlers
"""


def test_importing_and_using_it_is_quiet() -> None:
    """Nothing is printed, no logging is configured, and neither torch nor ray nor datasets is imported by the names."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", QUIET], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
