"""What the command line shows of a run: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from condprep.cli.console import print_json, say, show_facts
from condprep.cli.progress import progress as bars
from condprep.runtime.progress import Progress
from trainer.errors import readable_bytes

if TYPE_CHECKING:
    from trainer.recipe.recipe import Recipe
    from trainer.training.plan import TrainingPlan
    from trainer.training.train import TrainResult
    from trainer.types import Measured, ShowProgress

MOST_BUCKETS = 8  # lines of the plan
SHOWN = ("loss", "val_loss", "condition_gap", "pictures_per_second")  # of a run's metrics

__all__ = [
    "load_libraries",
    "plan",
    "progress",
    "say",
    "show_result",
    "training_progress",
    "warnings_as_lines",
    "without_bars",
]


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """A callback for what is prepared: what, how far, of how much."""
    with bars() as show:
        yield lambda stage, done, total: show(Progress(stage, done, total, details=""))  # type: ignore[arg-type]  # stages of its own


@contextmanager
def training_progress() -> Iterator[tuple[ShowProgress, Measured]]:
    """Two callbacks: for what is prepared or trained, and for what was measured, of which the newest is shown with the updates."""
    newest: dict[str, float] = {}
    with bars() as show:

        def told(stage: str, done: int, total: int) -> None:
            details = measured_line(newest) if stage == "updates" else ""
            show(Progress(stage, done, total, details=details))  # type: ignore[arg-type]  # stages of its own

        yield told, newest.update


def measured_line(newest: Mapping[str, float]) -> str:
    """ "loss 0.1234, lr 1e-05, condition gap 1.05, 12.3 pictures/s", as far as it is known."""
    shown = {
        "loss": "loss {:.4f}",
        "lr": "lr {:.2g}",
        "condition_gap": "condition gap {:.2f}",
        "pictures_per_second": "{:.1f} pictures/s",
    }
    return ", ".join(words.format(newest[name]) for name, words in shown.items() if name in newest)


def load_libraries() -> None:
    """What takes seconds, and is said before."""
    say("loading PyTorch and diffusers")
    without_bars()


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What a pipeline warns its caller of, as a person reads it: without the place in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(str(message))
        yield


def without_bars() -> None:
    """Loading a model shows no bars and no notices of its own."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it where it is installed
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def plan(recipe: Recipe, as_json: bool) -> None:
    """Check everything that can be, and show what a recipe would do."""
    load_libraries()
    from trainer.training.plan import plan_training

    show_plan(plan_training(recipe), as_json)


def show_plan(plan: TrainingPlan, as_json: bool) -> None:
    """What a recipe would do."""
    for note in plan.notes:
        say(note)
    if as_json:
        print_json(plan.public())
        return
    show_facts(_lines(plan))


def _lines(plan: TrainingPlan) -> Sequence[tuple[str, str]]:
    sizes = [(f"{width} x {height} px", rows) for (height, width), rows in plan.buckets.items()]
    rest = sum(rows for _, rows in sizes[MOST_BUCKETS:])
    shown = [("bucket", f"{size}: {rows:,} rows") for size, rows in sizes[:MOST_BUCKETS]]
    return [
        ("base", f"family {plan.family}"),
        ("conditions", plan.kind or "of no kind that is known"),
        ("rows", f"{plan.rows:,}; validation looks at {plan.held_out:,} held-out ones"),
        *shown,
        *([("", f"and {rest:,} rows in {len(sizes) - MOST_BUCKETS} other buckets")] if rest else []),
        ("resampled", f"{plan.resampled:,} rows" if plan.resampled else "none: every row has its training size"),
        ("updates", f"{plan.updates:,} of {plan.batch:,} pictures, {plan.epochs:.1f} epochs"),
        ("cache", f"{readable_bytes(plan.cache_bytes)} on disk"),
        ("memory", f"{readable_bytes(plan.peak_bytes)} on each device, about"),
    ]


def show_result(result: TrainResult, as_json: bool) -> None:
    """What a run made; then exit code 1 where it was stopped."""
    if as_json:
        print_json(result)
    else:
        show_facts(_made(result))
    if not result.finished:
        raise typer.Exit(1)


def _made(result: TrainResult) -> Sequence[tuple[str, str]]:
    newest = result.metrics
    found = [f"{name.replace('_', ' ')} {newest[name]:.4g}" for name in SHOWN if name in newest]
    end = "" if result.finished else " (stopped; the same command goes on from there)"
    use = f"python -m trainer sample {result.path} --checkpoint {result.updates} --condition MAP --prompt TEXT"
    return [
        ("updates", f"{result.updates:,}{end}"),
        ("measured", ", ".join(found)),
        ("time", f"{result.seconds:,.0f} s"),
        ("result" if result.finished else "run", str(result.path)),
        *(
            []
            if result.finished or not result.updates
            else [("to use it", f"{use}; evaluate, export and fork take it, too")]
        ),
    ]
