"""One picture of a run: what its validation draws is what its result draws, by every way and in any company."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from support.flow_models import FLOWS, save_flow_base
from support.kinds import COLUMNS, build_kinds
from support.thorough import slow_ones
from support.trainer_models import FAMILIES, build_dataset, save_base
from support.trainer_runs import lines, make_recipe

from trainer import evaluate, load_pipeline, sample, train
from trainer.app.drawing import Asked, Drawing
from trainer.inference.generate import Request, Sampling, generate
from trainer.inference.pipeline import PrecisionName
from trainer.training.samples import Samples
from trainer.training.validate import Validation, Validator

Ran = tuple[Path, list[Request], list[Image.Image], PrecisionName]
HOW = Sampling(steps=2, cfg=3.0, batch=1)
QUICK = "sd3"  # whose pipeline draws the condition's latents by itself, and is told by the ControlNet what to hear
SEVERAL = tuple(f"{family} of kinds" for family in ("sd15", "sdxl", *FLOWS))
BF16 = ("sd15 in bf16", "sd3 in bf16")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """With maps of several kinds, or of one: built once, whatever trains on it."""

    @cache
    def built(several: bool) -> Path:
        return (build_kinds if several else build_dataset)(tmp_path_factory.mktemp("pictures") / "ds", 16)

    return built


@pytest.fixture(
    scope="module", params=[QUICK, *slow_ones([*(name for name in FAMILIES + FLOWS if name != QUICK), *SEVERAL, *BF16])]
)
def run(request: Any, dataset: Callable[[bool], Path], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of one update of a family, and the pictures of its last validation with what was asked for."""
    family, _, rest = request.param.partition(" ")
    several, precision = rest == "of kinds", cast("PrecisionName", "bf16" if rest == "in bf16" else "fp32")
    folder = tmp_path_factory.mktemp(family)
    (save_base if family in FAMILIES else save_flow_base)(folder / "base", family)
    drawn: list[tuple[Sequence[Request], list[Image.Image]]] = []
    generated, validate = Samples.generate, Validator.validate

    def noted(self: Samples, pipe: Any, requests: Sequence[Request]) -> list[Image.Image]:
        drawn.append((requests, generated(self, pipe, requests)))
        return drawn[-1][1]

    def only_last(self: Validator, out: Path, update: int) -> Validation:
        return validate(self, out, update) if update else Validation(None, None, {})

    recipe = make_recipe(
        folder,
        folder / "output",
        data={"path": str(dataset(several)), "conditions": COLUMNS if several else []},
        train={"steps": 1, "schedule": "constant", "lr": 1e-2, "precision": precision},
        eval={"every": 1, "samples": 2, "sampler_steps": HOW.steps, "cfg": HOW.cfg, "loss_rows": 0}
        | {"fidelity": not several, "fidelity_rows": 3},
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Samples, "generate", noted)
        patched.setattr(Validator, "validate", only_last)
        train(recipe)
    requests, pictures = drawn[-1]
    return folder / "output", [*requests], pictures, precision


def apart(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Grey levels, on average, of the two that differ most."""
    pairs = zip(pictures, others, strict=True)
    return max(float(np.abs(np.asarray(a, int) - np.asarray(b, int)).mean()) for a, b in pairs)


def test_a_result_draws_what_its_validation_drew(run: Ran) -> None:
    """The same condition, caption and seed give the same picture: in the last validation, by `load_pipeline` one by one, all in a batch and
    in another order, by `sample`, and on the page; within a hundredth of a level, which is rounding;
    of bf16, whose sums are others in a batch, within some levels there."""
    out, requests, validated, precision = run
    pipe = load_pipeline(out, device="cpu", precision=precision)
    pipe.set_progress_bar_config(disable=True)
    assert apart(generate(pipe, requests, HOW), validated) < 0.01
    together = Sampling(HOW.steps, HOW.cfg, batch=len(requests))
    rounding = 0.01 if precision == "fp32" else 4.0
    assert apart(generate(pipe, requests, together), validated) < rounding
    assert apart(generate(pipe, requests[::-1], together)[::-1], validated) < rounding
    first, found = requests[0], dict[str, Image.Image]()
    how: dict[str, Any] = {"steps": HOW.steps, "cfg": HOW.cfg, "seed": first.seed, "kind": first.kind}
    how |= {"device": "cpu", "precision": precision}
    assert apart([sample(out, first.condition, first.prompt, **how)], validated[:1]) < 0.01
    asked = Asked(prompt=first.prompt, strength=1, seed=first.seed, steps=HOW.steps, cfg=HOW.cfg)
    Drawing(pipe, first.kind)(first.condition, asked, lambda: None, lambda arm, one: found.update({arm: one}))
    assert apart([found["controlnet"]], validated[:1]) < 0.01
    assert apart([found["base"]], validated[:1]) > 0.01, "the ControlNet changes nothing: the test shows nothing"


@pytest.mark.slow
def test_an_evaluation_measures_what_the_last_validation_measured(
    run: Ran,
) -> None:
    """Fidelity, its chance and its ceiling are those of `evaluate` on the same rows, whose pictures share other batches."""
    out, requests, _, precision = run
    if requests[0].kind:
        pytest.skip("fidelity is measured of one kind")
    last = next(line for line in reversed(lines(out)) if "fidelity_f1_2px" in line)
    arms = evaluate(out, rows=3, batch=2, device="cpu", precision=precision).arms
    for name, arm in (("f1_2px", "controlnet"), ("chance", "other map"), ("ceiling", "vae"), ("real", "real")):
        assert last[f"fidelity_{name}"] == pytest.approx(float(np.mean(arms[arm].values("f1_2px"))), abs=0.01), name
