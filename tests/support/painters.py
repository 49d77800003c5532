"""Stand-ins for pipelines whose pictures are known, and evaluations of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from support.trainer_runs import make_place, make_recipe

from condprep.annotators.registry import load_annotator
from trainer.data.open import open_split
from trainer.evaluation.evaluate import make_arms
from trainer.evaluation.examples import Example, read_examples
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.result import Fidelity, Trained, conclude
from trainer.evaluation.trial import Trial
from trainer.inference.generate import Sampling
from trainer.training.train import train

HOW = Sampling(steps=2, cfg=1.0, pictures=1, seed=0, batch=4)
NOTHING = Trained(None, "", None, ())


def train_place(folder: Path) -> Path:
    """A base, a dataset of 48 rows of which a quarter is held out, and a ControlNet of two updates, `output`."""
    make_place(folder, rows=48)
    train(make_recipe(folder, folder / "output", train={"steps": 2, "warmup": 1}, eval={"cfg": 1.0}))
    return folder


def read_some(place: Path, number: int = 12) -> list[Example]:
    """Rows of the split train of the dataset in `place`."""
    return read_examples(open_split(make_recipe(place, place / "none"), "train", training=False), number)


class Painter:
    """Stands for a pipeline: `paint` makes the picture of a condition and a prompt, and the VAE changes nothing."""

    device = torch.device("cpu")

    def __init__(self, paint: Callable[[Image.Image, str], Image.Image]) -> None:
        self.paint = paint
        self.controlnet = None
        self.vae = SimpleNamespace(
            device="cpu",
            dtype=torch.float32,
            config={},
            encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x)),
            decode=lambda x: SimpleNamespace(sample=x),
        )

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    def __call__(self, prompts: list[str], image: list[Image.Image], **how: Any) -> Any:
        blank = Image.new("RGB", image[0].size, (90, 90, 90))
        strong = how["controlnet_conditioning_scale"] > 0
        return SimpleNamespace(images=[self.paint(i, p) if strong else blank for i, p in zip(image, prompts)])


def follower(rows: list[Example]) -> Painter:
    """Gives the very picture from which a condition was made."""
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows}
    return Painter(lambda condition, _: known[condition.tobytes()])


def tried(pipe: Any, held_out: list[Example], seen: list[Example] = [], trained: Trained = NOTHING) -> Fidelity:  # noqa: B006
    trial = Trial(pipe, Reannotator(load_annotator("canny")), "canny", HOW)
    return conclude(trial, make_arms(trial, held_out, seen, None), trained, {}, 0.0)


def named(found: Fidelity) -> list[str]:
    return [finding.name for finding in found.findings]


FALLING = [(n, 1 / (n + 1)) for n in range(12)]
STILL = [(n, 0.1 + 0.9 * 0.1**n) for n in range(12)]
