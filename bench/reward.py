"""Whether a reward for listening is worth it: the quick-start trained without one, and with it in several ways.

    python -m bench reward --work DIR [--seeds 0 1 2] [--steps 800] [--every 100] [--rewards f1:1:0.5:1000 ...]

A reward is MEASURE:SHARE:FROM:BELOW, as ControlNet++ has it. Of the rows whose timestep is less than BELOW, the picture that the UNet
predicts in one step is decoded, softly annotated, and held against the map by MEASURE: "f1", the edge F1 within two pixels made soft, or
"bce", cross-entropy of the pixels. From FROM on, a share of the run, that is added to the loss, so weighted that the norm of its gradient
is SHARE of the loss's, as it is found in the first batches. DIR keeps every run; one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from bench import CHECKOUT
from bench.condition_gap import PICTURES, SEED, SHAPES, run
from trainer.models.objectives.velocity import Velocity

if TYPE_CHECKING:
    from trainer.recipe.recipe import Recipe
    from trainer.training.loop import TrainingLoop
    from trainer.types import Batch, Draws

PLAIN = "none"
FIRST, AGAIN = 4, 100  # batches by which the weight is found; updates until the gradients are compared again
STRONG, SOFT = 150.0, 40.0  # levels of a gradient between Canny's two thresholds, and how gently it is cut there
NEAR = 2  # pixels, as the F1 that is measured
USUAL = ("f1:1:0.5:1000",)
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Reward:
    """How it is given."""

    measure: str  # "f1", "bce"
    share: float  # the norm of its gradient, of that of the loss's
    start: float  # the share of the run before it
    below: int  # timesteps

    @classmethod
    def of(cls, text: str) -> Self:
        """As the command line has it."""
        measure, share, start, below = text.split(":")
        return cls(measure, float(share), float(start), int(below))


def soft_edges(pixels: Tensor) -> Tensor:
    """(B, 3, H, W), 0..255 -> (B, 1, H, W), 0..1: how strong an edge Canny(100, 200) would see, not thinned."""
    kernels = torch.stack([SOBEL, SOBEL.T])[:, None].to(pixels)
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    steps = F.conv2d(padded, kernels).abs().sum(1)  # as Canny adds them
    strongest = steps.reshape(pixels.shape).amax(1, keepdim=True)
    return torch.sigmoid((strongest - STRONG) / SOFT)


def losses_of(measure: str, found: Tensor, wanted: Tensor) -> Tensor:
    """(B,): how far soft edges are from those of the maps. Both are (B, 1, H, W), 0..1."""
    around, reached = (F.max_pool2d(each, 2 * NEAR + 1, 1, NEAR) for each in (wanted, found))
    if measure == "f1":
        precision = (found * around).sum((1, 2, 3)) / found.sum((1, 2, 3)).clamp(min=1e-3)
        recall = (reached * wanted).sum((1, 2, 3)) / wanted.sum((1, 2, 3)).clamp(min=1e-3)
        return 1 - 2 * precision * recall / (precision + recall).clamp(min=1e-3)
    missing, invented = -reached.clamp(min=1e-4).log() * wanted, -(1 - found).clamp(min=1e-4).log() * (1 - around)
    shares = [
        part.sum((1, 2, 3)) / of.sum((1, 2, 3)).clamp(min=1) for part, of in ((missing, wanted), (invented, 1 - around))
    ]
    return shares[0] + shares[1]


@dataclass
class Rewarded:
    """A loop whose batches are also told how far their pictures are from their maps."""

    loop: TrainingLoop
    reward: Reward
    norms: list[dict[str, float]] = field(default_factory=list)  # of gradients, as they were compared
    looking: float = 0.0  # CPU seconds that comparing took
    seen: Any = None

    def __enter__(self) -> Self:
        learner, self._given = self.loop.learner, ExitStack()
        self._predict, self._backward = learner.base.predict, learner.backward
        self._given.enter_context(patch.object(learner.base, "predict", self.predict))
        self._given.enter_context(patch.object(learner, "backward", self.backward))
        return self

    def __exit__(self, *_: object) -> None:
        self._given.close()

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        made: Tensor = self._predict(controlnet, noisy, timesteps, batch)
        self.seen = noisy, timesteps, batch, made
        return made

    def backward(self, losses: Tensor, draws: Draws) -> None:
        if self.loop.update >= self.reward.start * self.loop.total:
            given = self.given()
            if len(self.norms) < FIRST or self.loop.update % AGAIN == 0:
                self.compare(losses, given)
            losses = losses + self.weight * given
        self._backward(losses, draws)

    def given(self) -> Tensor:
        """(B,): the reward's loss of each row of the last batch; 0 for those with more noise."""
        noisy, timesteps, batch, made = self.seen
        given = torch.zeros(len(timesteps))
        rows = (timesteps < self.reward.below).nonzero()[:, 0]
        if not len(rows):
            nothing: Tensor = given + 0 * made.sum()
            return nothing
        base, objective = self.loop.learner.base, self.loop.learner.objective
        assert isinstance(objective, Velocity)
        alpha = objective.alpha(timesteps[rows])
        latents = alpha.sqrt() * noisy[rows] - (1 - alpha).sqrt() * made[rows]
        pixels: Tensor = base.vae.decode(latents / base.vae.config.scaling_factor).sample
        wanted = batch.conditions[rows][:, :1].float() / 255
        return given.index_put((rows,), losses_of(self.reward.measure, soft_edges((pixels + 1) * 127.5), wanted))

    def compare(self, losses: Tensor, given: Tensor) -> None:
        """Norms of both gradients, and the cosine between them."""
        began = time.process_time()
        weights = [weight for weight in self.loop.learner.controlnet.parameters() if weight.requires_grad]
        both = [torch.autograd.grad(each.mean(), weights, retain_graph=True) for each in (losses, given)]
        own, added = (torch.cat([part.flatten() for part in parts]) for parts in both)
        cosine = F.cosine_similarity(own, added, dim=0)
        values = {"loss": own.norm(), "reward": added.norm(), "cosine": cosine, "given": given.mean()}
        self.norms.append({"update": self.loop.update} | {name: value.item() for name, value in values.items()})
        self.looking += time.process_time() - began

    @property
    def weight(self) -> float:
        """By which the reward has its share."""
        first = self.norms[:FIRST]
        return self.reward.share * mean(one["loss"] for one in first) / max(mean(one["reward"] for one in first), 1e-9)


def make_dataset(work: Path) -> None:
    """The quick-start's."""
    run(str(SHAPES / "draw.py"), work / "raw", "--pictures", PICTURES, "--seed", SEED)
    build = ("build", work / "raw", "--annotator", "canny", "--resolution", 64, "--validation", 0.05)
    run("-m", "condprep", *build, "--out", work / "ds")


def recipe(work: Path, out: Path, seed: int, steps: int, every: int, rate: float, embedder: str = "usual") -> Recipe:
    """The quick-start's, measured more often, on all held-out rows."""
    from trainer.recipe.toml import load_recipe

    changed = {
        "model.base": SHAPES / "base",
        "model.embedder": embedder,
        "data.path": work / "ds",
        "train.steps": steps,
        "train.seed": seed,
        "train.lr": rate,
        "train.snr_gamma": 0,
        "eval.every": every,
        "eval.samples": 0,
        "eval.loss_rows": 0,
        "eval.fidelity_rows": 1000,
        "save.dir": out,
        "save.every": steps // 2,
        "log.tracker": "none",
    }
    sets = [f'{key}="{value}"' if isinstance(value, Path) else f"{key}={value}" for key, value in changed.items()]
    return load_recipe(CHECKOUT / "recipes" / "shapes.toml", sets)


def learn(work: Path, name: str, seed: int, steps: int, every: int, rate: float) -> None:
    """One run, which leaves `found.json`. A reward that comes late goes on from the run without one."""
    from trainer.training.machine import make_accelerator
    from trainer.training.prepare import prepare

    out, plain = (work / f"{each.replace(':', '-')}-{steps}-{seed}" for each in (name, PLAIN))
    settings = recipe(work, out, seed, steps, every, rate)
    reward, spent = (None if name == PLAIN else Reward.of(name)), [0.0]
    shutil.rmtree(out, ignore_errors=True)  # what an interrupted one has left
    out.mkdir()
    if reward and reward.start:
        half = f"{int(reward.start * steps):08d}"
        shutil.copytree(plain / "checkpoints" / half, out / "checkpoints" / half)
        shutil.copy(plain / "metrics.jsonl", out)
        spent = json.loads((plain / "found.json").read_text())["seconds"][: int(half) + 1]
    with closing(prepare(settings, make_accelerator(settings), print, lambda *_: None)) as loop, ExitStack() as stack:
        rewarded = stack.enter_context(Rewarded(loop, reward)) if reward else None
        step = loop.learner.step

        def timed(*arguments: Any) -> Any:
            began, before = time.process_time(), rewarded.looking if rewarded else 0
            result = step(*arguments)
            looking = rewarded.looking - before if rewarded else 0
            spent.append(spent[-1] + time.process_time() - began - looking)
            return result

        stack.enter_context(patch.object(loop.learner, "step", timed))
        loop.run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    f1 = {line["update"]: line["fidelity_f1_2px"] for line in lines if "fidelity_f1_2px" in line}
    more = {"weight": rewarded.weight, "norms": rewarded.norms} if rewarded else {}
    (out / "found.json").write_text(json.dumps({"f1": f1, "seconds": spent, **more}))


def show(work: Path, names: list[str], seeds: list[int], steps: int) -> None:
    """F1 by updates, the CPU seconds of all of them, and what the gradients were."""
    table = Table("reward", "seed", "F1 by updates", "CPU s", "weight", "gradient / the loss's", "cosine")
    for name in names:
        for seed in seeds:
            file = work / f"{name.replace(':', '-')}-{steps}-{seed}" / "found.json"
            if not file.exists():
                continue
            found = json.loads(file.read_text())
            f1 = " ".join(f"{int(update)}: {value:.3f}" for update, value in found["f1"].items())
            weight, norms = found.get("weight", 0), found.get("norms", [])
            shares = [f"{weight * one['reward'] / one['loss']:.2f}" for one in norms[FIRST - 1 :]]
            cosines = [f"{one['cosine']:.2f}" for one in norms[FIRST - 1 :]]
            seconds = f"{found['seconds'][-1]:.0f}"
            table.add_row(name, str(seed), f1, seconds, f"{weight:.3g}", " ".join(shares), " ".join(cosines))
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="the folder that keeps what is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800, help="updates of a run")
    parser.add_argument("--rate", type=float, default=2.5e-3, help="of learning, at its highest")
    parser.add_argument("--every", type=int, default=100, help="updates between measurements")
    parser.add_argument("--rewards", nargs="*", default=USUAL, help="MEASURE:SHARE:FROM:BELOW")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (options.work / "ds" / "dataset_dict.json").exists():
        make_dataset(options.work)
    names = [PLAIN, *options.rewards]
    for seed in options.seeds:
        for name in names:
            if not (options.work / f"{name.replace(':', '-')}-{options.steps}-{seed}" / "found.json").exists():
                learn(options.work, name, seed, options.steps, options.every, options.rate)
                show(options.work, names, options.seeds, options.steps)
    show(options.work, names, options.seeds, options.steps)
