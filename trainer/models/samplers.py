"""Samplers by the names that recipes have for them, made for a base's schedule.

The first one of a family is its own, which "auto" stands for. Which others there are depends on what its pipeline tells a
sampler: that of SD 3 lets it choose its steps, the others hand over sigmas, Z-Image's as a list, which Euler alone takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers

from trainer.errors import ModelError

AUTO = "auto"
Make = Callable[[Any], Any]  # the configuration of a base's scheduler -> a scheduler of diffusers


def _as_the_base(kind: str) -> Make:
    """A class of diffusers with the schedule of a base that predicts noise or velocity."""
    return lambda config: getattr(diffusers, kind).from_config(config)


def _euler(config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)


def _heun(config: Any) -> Any:
    return diffusers.FlowMatchHeunDiscreteScheduler(config.num_train_timesteps, config.shift)


def _unipc(config: Any) -> Any:
    return diffusers.UniPCMultistepScheduler(
        use_dynamic_shifting=config.use_dynamic_shifting, time_shift_type=config.time_shift_type, **_flow(config)
    )


def _dpm(config: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(**_flow(config))


def _flow(config: Any) -> dict[str, Any]:
    """What solvers that were made for noise want to know of a flow."""
    return {
        "num_train_timesteps": config.num_train_timesteps,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": config.shift,
    }


DIFFUSIONS: Mapping[str, Make] = {
    "unipc": _as_the_base("UniPCMultistepScheduler"),
    "dpm++": _as_the_base("DPMSolverMultistepScheduler"),
    "euler": _as_the_base("EulerDiscreteScheduler"),  # which is DDIM, in other words
    "euler_a": _as_the_base("EulerAncestralDiscreteScheduler"),
}
EULER: Mapping[str, Make] = {"euler": _euler}
WITH_SIGMAS: Mapping[str, Make] = {**EULER, "unipc": _unipc}
FLOWS: Mapping[str, Make] = {**WITH_SIGMAS, "dpm++": _dpm, "heun": _heun}


def check_sampler(name: str, known: Mapping[str, Make], family: str) -> str:
    """A name of `known`, the first for "auto". Raises ModelError that lists them."""
    if name == AUTO:
        return next(iter(known))
    if name not in known:
        raise ModelError(
            f'the sampler "{name}" is not known for bases of family "{family}"; known are {", ".join([AUTO, *known])}'
        )
    return name
