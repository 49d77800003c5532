"""What several processes do with weights that are shared out: `python -m support.sharded FOLDER PROCESSES TASK...`, from `Warm`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support.kinds import kinds_batch
from support.learners import RATE, make_batch, split, stir
from support.ranks import on_ranks
from support.trainer_models import slim_controlnet

from trainer.models.families import load_base
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import load_recipe
from trainer.training import prepare, step
from trainer.training.machine import make_accelerator
from trainer.training.step import Learner
from trainer.training.train import train

ROWS = 4  # of an update, one a pass
UPDATES = 2


def make_learner(base: Path, kinds: Sequence[str | None] = (None,), **settings: Any) -> Learner:
    """Of this process, with gradients everywhere; kinds: of conditions; settings: keys of [train] that are different."""
    usual = {"batch": ROWS, "micro_batch": 1, "precision": "fp32", "device": "cpu", "schedule": "constant", "lr": RATE}
    words = usual | {"shard": "full", "max_grad_norm": 0.05} | settings
    model = {"base": str(base)}
    recipe = Recipe.model_validate({"model": model, "train": words, "log": {"tracker": "none"}, "ema": {"decay": 0.5}})
    accelerator, loaded = make_accelerator(recipe), load_base(recipe.model, kinds=tuple(kinds))
    torch.manual_seed(1)
    slim = loaded.part == "unet" and len(kinds) == 1
    controlnet = slim_controlnet(loaded.denoiser) if slim else loaded.new_controlnet("unet")
    stir(controlnet)
    loaded.new_controlnet = lambda init: controlnet  # type: ignore[method-assign]
    return prepare.make_learner(recipe, accelerator, loaded)


def learned(base: Path, **settings: Any) -> dict[str, Any]:
    """Two updates after a rehearsal: losses of all rows, norms, weights, what is written of them, and bytes that are kept."""
    learner = make_learner(base, **settings)
    accelerator = learner.accelerator
    passes = ROWS // accelerator.num_processes
    learner.accumulate(passes)
    first = accelerator.process_index * passes
    made = make_batch if len(learner.base.kinds) == 1 else kinds_batch
    mine = split(made(learner.base), 1)[first : first + passes]
    learner.rehearse(mine[0])
    found = [learner.step(mine, RATE) for _ in range(UPDATES)]
    losses = [accelerator.gather(one.losses) for one in found]  # type: ignore[no-untyped-call]
    snapshot, state = learner.snapshot(), learner.state()
    return {
        "losses": torch.cat(losses),
        "norms": torch.stack([one.norm for one in found]).float(),
        "raw": state.weights,
        "best": list(state.average),
        "optimizer": state.optimizer,
        "validated": [weight.detach() for weight in snapshot.parameters()],
        "kept": [
            sum(_bytes(weight) for weight in one.parameters()) for one in (learner.base.denoiser, learner.controlnet)
        ],
        "moments": sum(_bytes(values["exp_avg"]) for values in learner.optimizer.state.values()),
    }


def _bytes(tensor: Any) -> int:
    return int(getattr(tensor, "_local_tensor", tensor).nbytes)


def _learn(folder: Path, name: str, rank: int) -> None:
    """Task `learn=NAME`: FOLDER/NAME.json has base and settings; to FOLDER/NAME.pt."""
    import json

    words = json.loads((folder / f"{name}.json").read_text())
    found = learned(Path(words.pop("base")), **words)
    if rank == 0:
        torch.save(found, folder / f"{name}.pt")


def _train(folder: Path, name: str, rank: int) -> None:
    """Task `train=NAME`: the recipe FOLDER/NAME.toml."""
    train(load_recipe(folder / f"{name}.toml"), say=print)


def _die(folder: Path, name: str, rank: int) -> None:
    """Task `die=NAME`: as `train`, but that the second process is gone in the middle of gathering the second checkpoint."""
    gathered = 0

    def gather(state: Any, here: bool) -> Any:
        nonlocal gathered
        gathered += 1
        if gathered == 2 and rank == 1:
            os._exit(9)
        return whole_state(state, here)

    whole_state = step.whole_state
    step.whole_state = gather
    _train(folder, name, rank)


TASKS = {"learn": _learn, "train": _train, "die": _die}


def carry_out(folder: Path, tasks: list[str], rank: int) -> None:
    """One after the other, in one group of processes."""
    for task in tasks:
        kind, _, name = task.partition("=")
        TASKS[kind](folder, name, rank)


def on_sound_ranks(count: int, work: Callable[[int], None], folder: Path) -> list[int]:
    """As `on_ranks`; once more where the libraries' own code has broken down.

    Once in about a hundred groups of processes on a CPU a rank ended with "malloc(): unaligned tcache chunk detected". Where:
    is open. In two groups, one a whole run, an allocator that keeps what is freed, and looks whether somebody has written into it,
    or beyond its end, saw nothing. (MALLOC_CHECK_ says nothing by itself: glibc from 2.34 on wants libc_malloc_debug.so.0 preloaded.)
    """
    broken = {-signal.SIGABRT, -signal.SIGSEGV}
    codes = on_ranks(count, work, folder)
    return on_ranks(count, work, folder) if broken & {*codes} else codes


if __name__ == "__main__":
    where, count, *names = sys.argv[1:]
    codes = on_sound_ranks(int(count), partial(carry_out, Path(where), names), Path(where) / f"said{count}")
    sys.exit(any(codes))
