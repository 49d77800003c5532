"""The objective of a base, by its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import ModelError
from trainer.models.objectives.epsilon import Epsilon
from trainer.models.objectives.flow import Flow
from trainer.models.objectives.protocol import Objective
from trainer.models.objectives.velocity import Velocity

BY_SCHEDULE: dict[str, Callable[[Tensor], Objective]] = {"epsilon": Epsilon, "v_prediction": Velocity}


def refuse_unsaid(name: str, scheduler: Any, keys: Sequence[str]) -> None:
    """Raises ModelError for the scheduler of a base whose file says nothing of a schedule, so that diffusers has taken its own defaults.

    So it is of EDM's schedulers, and of flows, where timesteps of a schedule are wanted, and the other way round. keys: of which one is said.
    """
    unsaid = set(scheduler.config.get("_use_default_values", ()))
    if unsaid.issuperset(keys):
        raise ModelError(
            f"the scheduler of {name} says no {' and no '.join(keys)}: it is of a kind (EDM, a flow, ...) that bases of this family"
            " are not trained by here; what it would be trained with is not what it has learned"
        )


def objective_of(scheduler: Any) -> Objective:
    """Of a DDPMScheduler or FlowMatchEulerDiscreteScheduler, on the CPU. Raises ModelError for what is not trained here."""
    if "use_dynamic_shifting" in scheduler.config and "prediction_type" not in scheduler.config:
        return Flow.of(scheduler.config)
    predicted = scheduler.config.prediction_type
    if predicted not in BY_SCHEDULE:
        raise ModelError(f"the base predicts {predicted!r}; {' and '.join(BY_SCHEDULE)} can be trained")
    return BY_SCHEDULE[predicted](scheduler.alphas_cumprod.to(torch.float32))
