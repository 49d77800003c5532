"""A process is left as it was found: the trainer is called in notebooks, whose own work goes on before and after."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image, ImageDraw
from support.trainer_runs import make_place, make_recipe

from trainer import evaluate, export, load_pipeline, sample, train
from trainer.recipe.recipe import Recipe
from trainer.training.machine import accelerated
from trainer.training.plan import plan_training

WATCHED = {"every": 2, "samples": 1, "sampler_steps": 2, "loss_rows": 2, "fidelity": True, "fidelity_rows": 2}


def surroundings() -> dict[str, Any]:
    """What a process's other work depends on."""
    own = Accelerator()
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "random numbers": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "accelerate": (own.mixed_precision, own.device, own.gradient_accumulation_steps),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": [str(one) for one in warnings.filters],
        "pictures": Image.MAX_IMAGE_PIXELS,
        "environment": dict(os.environ),
    }


def test_accelerate_and_random_numbers_are_those_of_before() -> None:
    """Somebody's own Accelerator keeps its precision, a new one takes that, and random numbers go on where they were; also where the
    run fails."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of other tests
    own, recipe = Accelerator(), Recipe.model_validate({"train": {"device": "cpu"}, "log": {"tracker": "none"}})

    def failing() -> None:
        with accelerated(recipe) as lent:
            assert lent.mixed_precision == "bf16"
            torch.manual_seed(0)
            raise KeyError

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(KeyError):
        failing()
    assert (own.mixed_precision, Accelerator().mixed_precision) == ("no", "no")
    assert torch.rand(3).equal(expected)


@pytest.mark.slow
def test_every_call_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """Flags of torch, random numbers, accelerate, signals, warnings and environment, after each public call, and after a run that fails."""
    place, out = make_place(tmp_path, rows=16), tmp_path / "output"

    def short(name: str, **train: Any) -> Recipe:
        return make_recipe(place, tmp_path / name, train={"steps": 2, "precision": "bf16"} | train, eval=WATCHED)

    def killed(what: str, done: int, total: int) -> None:
        if what == "updates":
            raise KeyboardInterrupt

    def failing() -> None:
        with pytest.raises(KeyboardInterrupt):
            train(short("killed"), progress=killed)

    edges = Image.new("RGB", (64, 64))
    ImageDraw.Draw(edges).rectangle((16, 16, 48, 48), outline="white")
    calls: dict[str, Callable[[], object]] = {
        "plan": lambda: plan_training(short("planned")),
        "train": lambda: train(short("output", micro_batch="auto")),
        "a run that is killed": failing,
        "load_pipeline": lambda: load_pipeline(out, device="cpu"),
        "sample": lambda: sample(out, edges, "a disc", steps=1, device="cpu"),
        "evaluate": lambda: evaluate(out, rows=2, sampler_steps=1, device="cpu"),
        "export": lambda: export(out, tmp_path / "one.safetensors", to="comfyui"),
    }
    for name, call in calls.items():
        before = surroundings()
        call()
        after = surroundings()
        assert not [what for what in before if before[what] != after[what]], name
