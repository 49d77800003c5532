"""What every annotator of condprep's own promises those who call it and hand it on: errors that help, and small pickles."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.network_states import hed_state

from condprep import CondprepError, Weights, load_annotator
from condprep.annotators.base import BaseAnnotator
from condprep.errors import AnnotatorError
from condprep.types import Maps

PICTURES = torch.zeros(2, 3, 8, 12, dtype=torch.uint8)
KEYS = ["a", "b"]


class Network(BaseAnnotator):
    """Counts its calls."""

    name, variant, batch_size, binary = "network", "", 4, False

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.calls = device, 0

    def annotate(self, rgb: torch.Tensor, keys: Any) -> Maps:
        self.calls += 1
        return Maps(rgb)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "floats": (PICTURES / 255, KEYS, r"torch\.float32, .* floats 0\.\.1: \(x \* 255\)\.round\(\)\.to\(torch\.uint8\)"),
    "integers": (PICTURES.int(), KEYS, r"torch\.int32, .*: x\.to\(torch\.uint8\)"),
    "array": (PICTURES.numpy(), KEYS, r"ndarray of uint8, .* torch\.from_numpy\(array\)\.permute\(2, 0, 1\)\[None\]"),
    "file": ("photo.jpg", KEYS, r"got a str, .* condprep\.annotate"),
    "one picture": (PICTURES[0], KEYS, r"got \(3, 8, 12\) .* one picture: x\[None\]"),
    "one picture, colours last": (PICTURES[0].permute(1, 2, 0), KEYS, r"x\.permute\(2, 0, 1\)\[None\]"),
    "colours last": (PICTURES.permute(0, 2, 3, 1), KEYS, r"got \(2, 8, 12, 3\) .* x\.permute\(0, 3, 1, 2\)"),
    "grey": (PICTURES[:, :1], KEYS, r"grey: x\.expand\(-1, 3, -1, -1\)"),
    "alpha": (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), KEYS, r"then x\[:, :3\]"),
    "no picture": (PICTURES[:0], [], r"got \(0, 3, 8, 12\) .* no picture in it"),
    "too few keys": (PICTURES, ["a"], r"2 pictures and 1 keys; give one string for each picture"),
    "no keys": (PICTURES, (), r"2 pictures and 0 keys"),
    "one key for all": (PICTURES, "ab", r"keys are str; give 2"),
    "numbers": (PICTURES, ["a", 7], r"key 7 is int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_an_error_that_says_what_is_right(case: str) -> None:
    """Wrong type, range, shape or keys: the error says what was given and how to get there, and no network is run."""
    rgb, keys, message = WRONG[case]
    network = Network()
    with pytest.raises(AnnotatorError, match=message):
        network(rgb, keys)
    assert network.calls == 0
    assert len(network(PICTURES, KEYS).maps) == 2


def test_every_annotator_of_condprep_checks_its_input() -> None:
    """All of them share the check: canny, which needs no weights, and the classes of the others."""
    from condprep.annotators.controlnet_aux.adapter import Aux
    from condprep.annotators.depth.annotator import Depth, Normal
    from condprep.annotators.hed.annotator import Hed
    from condprep.annotators.openpose.annotator import Openpose
    from condprep.annotators.openpose.blaze.annotator import Blaze

    for kind in (Aux, Depth, Normal, Hed, Openpose, Blaze, type(load_annotator("canny"))):
        assert issubclass(kind, BaseAnnotator)
        assert "__call__" not in vars(kind)


def test_pictures_on_another_device_are_an_error() -> None:
    """Where the pictures are and where the network is are both named, with the call that moves them."""
    with pytest.raises(AnnotatorError, match=r"on cpu and the network is on meta: x\.to\('meta'\)"):
        Network("meta")(PICTURES, KEYS)


@pytest.mark.parametrize("wrong", [np.ones((8, 8, 3), np.float32), np.ones((8, 8), np.uint8), [1]], ids=str)
def test_canny_does_not_draw_the_picture_before(wrong: Any) -> None:
    """What is no picture is an error; it was the map of the last picture of that size, which cv2.split had left."""
    canny: Any = load_annotator("canny")
    canny.picture(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8), "")
    with pytest.raises(AnnotatorError, match=r"\(H, W, 3\) uint8 RGB, 0\.\.255"):
        canny.picture(wrong, "")


def test_an_annotator_pickles_as_what_to_load(tmp_path: Any) -> None:
    """A few hundred bytes whatever its weights; here it is itself again, and hashes by what was asked for alone."""
    torch.save(hed_state(), tmp_path / "ControlNetHED.pth")
    hed = load_annotator("hed", weights=Weights(tmp_path, offline=True, say=lambda _: None))
    data = pickle.dumps(hed)
    assert len(data) < 1500
    assert pickle.loads(data) is hed
    low, high = ({"low": 10, "high": 20}, {"high": 20, "low": 10})
    first, same, other = (pickle.dumps(load_annotator("canny", params=params)) for params in (low, high, {"low": 11}))
    assert first == same != other


ELSEWHERE = """
import pickle, sys
from datasets.fingerprint import Hasher
annotator = pickle.loads(bytes.fromhex(sys.argv[1]))
print(Hasher.hash(annotator), annotator is pickle.loads(bytes.fromhex(sys.argv[1])), annotator.thresholds)
"""


@pytest.mark.slow
def test_another_process_loads_it_once_and_hashes_it_alike() -> None:
    """What `datasets` makes its fingerprints of is the same in every process, and unpickling twice loads once."""
    from datasets.fingerprint import Hasher

    canny = load_annotator("canny", params={"low": 50})
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, pickle.dumps(canny).hex()], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split(maxsplit=1) == [Hasher.hash(canny), "True (50, 200)\n"]


def test_another_condprep_or_other_weights_do_not_load_it() -> None:
    """A description from another version, or of other weights, is an error that names both."""
    load, (described,) = load_annotator("canny").pickled  # type: ignore[attr-defined]
    with pytest.raises(AnnotatorError, match=r"pickled by condprep 9\.9\.9, this process has 0\..*pip install"):
        load(replace(described, version="9.9.9"))
    with pytest.raises(AnnotatorError, match=r"with the weights {'a.pth': 'abc'}, here are {}: give every process"):
        load(replace(described, sha256={"a.pth": "abc"}))


def test_weights_pickle_without_who_is_told(tmp_path: Any) -> None:
    """Where weights come from is handed on, as a path that holds in another folder, too; a callback is not."""
    told: list[str] = []
    weights = pickle.loads(pickle.dumps(Weights(tmp_path, strict=True, offline=True, say=told.append)))
    assert (weights.folder, weights.strict, weights.offline) == (tmp_path, True, True)
    weights.say("not to a list that is elsewhere")
    assert not told


FORKED = """
import os, sys, threading, torch
torch.set_num_threads(2)
convolution = torch.nn.Conv2d(3, 64, 3)
def compute():
    with torch.inference_mode():
        convolution(torch.rand(2, 3, 256, 256))
from condprep.annotators import registry
annotator = registry.load_annotator("canny")
compute()
locked = threading.Event()
def hold():
    with registry._loaded.lock:
        locked.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
locked.wait()
pid = os.fork()
if not pid:
    compute()
    with registry._loaded.lock:
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes() -> None:
    """A child of a parent whose OpenMP threads have computed and whose other thread holds our lock does not hang."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run([sys.executable, "-c", FORKED], env=environment, timeout=1800)
    assert ran.returncode == 0


def test_a_gpu_of_the_parent_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child forked after CUDA was used, loading onto it and calling say spawn; `auto` is no silent CPU run."""
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert load_annotator("canny", device="cpu").device == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for work in (
        lambda: load_annotator("hed", device="auto"),
        lambda: load_annotator("hed", device="cuda:0"),
        lambda: Network("cuda")(PICTURES, KEYS),
    ):
        with pytest.raises(CondprepError, match=r"was forked from one that had used CUDA.*set_start_method\('spawn'\)"):
            work()
