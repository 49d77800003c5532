"""What an annotator leaves behind: nothing that the next one, another thread or what runs beside it would notice."""

from __future__ import annotations

import functools
import gc
import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from skimage import data
from support import doors, tiny_models
from support.thorough import examples, slow_ones
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.runner import Runner
from condprep.annotators.weighing import needed
from condprep.errors import AnnotatorError, Rejected
from condprep.weights.find import Weights

pytestmark = pytest.mark.usefixtures("stand_ins")

KEYS = [f"{number:064x}" for number in range(6)]
MODELS = {kind: door for door, kinds in doors.MODELS.items() for kind in kinds}
NAMES = [*doors.FILTERS, *doors.LINES, *doors.HED, *doors.DWPOSE, *doors.PEOPLE, "aux:sam", *MODELS, "sam2"]
HEAVY = {"aux:sam", "sam2"}
Made = Callable[[str], tuple[str, Path]]
DENSE = {*doors.LINES, *doors.HED}  # of which a small picture shows as much
QUICK = {"canny:random", "inpaint", "teed", "aux:shuffle", "dpt"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What users say for an annotator, and a folder with what it reads, which is written once."""

    @functools.cache
    def once(name: str) -> tuple[str, Path]:
        folder = tmp_path_factory.mktemp("weights")
        said = name
        if name in MODELS or name == "sam2":
            (said,) = doors.tiny(folder, {MODELS.get(name, "mask"): (name,)})
        doors.fill(folder, said)
        return said, folder

    return once


def loaded(said: str, folder: Path) -> Any:
    weights = Weights(folder, offline=True, say=lambda _: None)
    return load_annotator(said, device="cpu", params=doors.params([said]).get(doors.base(said)), weights=weights)


def pictures() -> list[Tensor]:
    """Six of three sizes, one by one."""
    man, cup = data.astronaut(), data.coffee()
    some = [man[:384:3, 100:356:4], man[40:168, 200:136:-1], cup[:100, 200:270], cup[100:200, 100:170]]
    some += [man[:131, 150:220], man[128:192, 128:192]]
    return [torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1)[None] for one in some]


def state() -> dict[str, Any]:
    """What of this process changes what others compute."""
    backends = torch.backends
    numbers = np.random.get_state(legacy=False)
    return {
        "random": random.getstate(),
        "numpy's random": json.dumps(numbers, default=str),
        "torch's random": torch.get_rng_state().numpy().tobytes(),
        "numpy's errors": np.geterr(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision()),
        "cuDNN": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "TF32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "compiling": torch.compiler.is_compiling(),
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("name", [*sorted(QUICK), *slow_ones(name for name in NAMES if name not in QUICK)])
def test_nobody_notices_an_annotator(name: str, made: Made) -> None:
    """Loading and calling it leave all as it was: generators of random numbers, flags of torch, autocast, the environment, the pictures
    themselves. Four threads at once, with pictures of several sizes, get the maps that each picture has alone, and so does who
    calls it amid a training step in bf16, by itself or in a session."""
    weights, pair = made(name), torch.cat(pictures()[:2])
    rgb, before = pair.clone(memory_format=torch.preserve_format), state()
    annotator = loaded(*weights)
    assert state() == before
    annotator(rgb, KEYS[:2])
    assert state() == before
    assert torch.equal(rgb, pair)
    some = pictures() if name in QUICK else pictures()[::2]
    some = [one[..., ::2, ::2] for one in some] if name in DENSE - QUICK else some
    alone = shared_by_threads(
        annotator,
        some[: 2 if name in HEAVY else None],
        examples(4 if name in HEAVY else 18 if name in QUICK else 8, 18),
    )
    amid_a_training_step(annotator, some[0], alone[0])


def amid_a_training_step(annotator: Any, rgb: Tensor, alone: Tensor) -> None:
    """The map is that of the precision on the annotator's record."""
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(annotator(rgb, KEYS[:1]).maps, alone)
        drawn = Runner(annotator)(rgb, KEYS[:1])
    for one, expected in zip(drawn, alone.permute(0, 2, 3, 1).numpy()):
        assert not isinstance(one, Rejected)
        assert np.array_equal(one[0].reshape(expected.shape), expected)


def shared_by_threads(annotator: Any, some: list[Tensor], times: int) -> list[Tensor]:
    """Whoever asks gets what each picture has alone, which is returned."""
    alone = [annotator(rgb, [key]).maps for rgb, key in zip(some, KEYS)]

    def again(number: int) -> bool:
        which = number % len(some)
        return torch.equal(annotator(some[which], KEYS[which : which + 1]).maps, alone[which])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(times)))
    return alone


@pytest.mark.slow
def test_a_consistency_model_for_several_threads(tmp_path: Path) -> None:
    """Its scheduler counts steps: each picture gets its own, whoever else asks at the time."""
    from diffusers import LCMScheduler

    tiny_models.marigold(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "LCMScheduler"]}))
    LCMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    shared_by_threads(load_annotator(f"normal:{tmp_path}", device="cpu"), pictures(), 24)


class Remembering:
    """A network whose count can be told what to do."""

    name, device, plenty = "remembering", "cpu", 0

    def __init__(self, weigh: Any) -> None:
        self.weigh = weigh


def test_two_counts_at_once_leave_nothing(tmp_path: Path) -> None:
    """Of two threads that count, one waits: what is compiling in this process is afterwards what it was."""
    entered, done = Event(), Event()

    def second(rgb: Tensor) -> None:
        entered.set()
        done.wait(60)

    other = Thread(target=needed, args=(Remembering(second), 64, 64))

    def first(rgb: Tensor) -> None:
        other.start()
        assert not entered.wait(0.2)

    needed(Remembering(first), 64, 64)
    done.set()
    other.join()
    assert entered.is_set()
    assert not torch.compiler.is_compiling()


def test_what_a_function_remembers_of_a_count_is_made_again() -> None:
    """Whoever's function it is: pictures that follow get numbers."""

    @functools.lru_cache
    def ramp(size: int) -> tuple[Tensor, ...]:
        return torch.arange(size), torch.arange(size) * 2

    assert needed(Remembering(lambda rgb: [len(ramp(size)) for size in (8, 9)]), 64, 64) > 0
    assert ramp.cache_info().currsize == 0
    assert ramp(8)[1].tolist() == list(range(0, 16, 2))


@functools.lru_cache
def steps(size: int) -> Tensor:
    """Of a module that is loaded before anything is annotated."""
    return torch.arange(size)


def test_what_a_frozen_function_remembers_is_made_again() -> None:
    """Also where the garbage collector does not see it: who starts processes by fork freezes what is loaded, as these tests do."""
    assert not any(one is steps for one in gc.get_objects())
    assert needed(Remembering(lambda rgb: steps(len(rgb))), 64, 64) > 0
    assert steps.cache_info().currsize == 0
    assert steps(3).tolist() == [0, 1, 2]


def test_who_keeps_what_was_counted_is_named() -> None:
    """An annotator that keeps a tensor without numbers stops the build, as its maps might be made with it."""
    kept: list[Tensor] = []
    with pytest.raises(AnnotatorError, match=r"remembering keeps 1 tensor.* `weigh` must keep nothing"):
        needed(Remembering(lambda rgb: kept.append(rgb.float())), 64, 64)


def test_what_a_model_s_file_lacks_is_the_same_everywhere(tmp_path: Path) -> None:
    """It is random, and said; but two processes of a build have the same numbers, and who draws beside it notices nothing."""
    tiny_models.dpt(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    state = load_file(file)
    del state["head.head.4.weight"]
    save_file(state, file, {"format": "pt"})
    said: list[str] = []
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        annotator: Any = load_annotator(
            f"depth:{tmp_path}", device="cpu", weights=Weights(offline=True, say=said.append)
        )
        following = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(1), following)
        made.append(annotator.model.model.head.head[4].weight)
    assert torch.equal(*made)
    assert len(said) == 2
    assert "its file lacks head.head.4.weight" in said[0]
