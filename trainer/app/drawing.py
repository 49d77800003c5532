"""What is asked for, and the two pictures that answer it: with the ControlNet, and by its base alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from trainer.inference.generate import Request, Sampling, Stepped, generate

Arm = Literal["controlnet", "base"]
Drawn = Callable[[Arm, Image.Image], None]  # is told of each picture
REMEMBERED = 8  # pictures of the base, so that another strength draws one picture and not two
LONGEST = 2000  # letters of a prompt
MOST_SEED = 2**32 - 1


class Asked(BaseModel):
    """The settings of a generation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(max_length=LONGEST)
    negative_prompt: str = Field(default="", max_length=LONGEST)
    strength: float = Field(ge=0, le=2, allow_inf_nan=False)  # of the ControlNet
    seed: int = Field(ge=0, le=MOST_SEED)
    steps: int = Field(ge=1, le=150)  # of UniPC
    cfg: float = Field(ge=0, le=30, allow_inf_nan=False)  # classifier-free guidance


class Drawing:
    """Draws with a pipeline, for one caller at a time."""

    def __init__(self, pipe: Any, kind: str | None = None) -> None:
        """kind: of the conditions, where the pipeline knows several."""
        pipe.set_progress_bar_config(disable=True)
        self._pipe, self._kind = pipe, kind
        self._of_base: OrderedDict[tuple[Any, ...], Image.Image] = OrderedDict()

    def steps(self, condition: Image.Image, asked: Asked) -> int:
        """How many there will be."""
        return asked.steps * (1 if _of_base(condition, asked) in self._of_base else 2)

    def __call__(self, condition: Image.Image, asked: Asked, stepped: Stepped, drawn: Drawn) -> None:
        """Both pictures, of the size of the condition, from the same noise. stepped: may raise, to stop it."""

        def made(strength: float) -> Image.Image:
            sampling = Sampling(asked.steps, asked.cfg, negative_prompt=asked.negative_prompt)
            request = Request(asked.prompt, condition, asked.seed, self._kind)
            (picture,) = generate(self._pipe, [request], sampling, strength=strength, stepped=stepped)
            return picture

        drawn("controlnet", made(asked.strength))
        key = _of_base(condition, asked)
        if key not in self._of_base:
            self._of_base[key] = made(0.0)
            if len(self._of_base) > REMEMBERED:
                self._of_base.popitem(last=False)
        drawn("base", self._of_base[key])


def _of_base(condition: Image.Image, asked: Asked) -> tuple[Any, ...]:
    """What the base's picture depends on."""
    return condition.size, *asked.model_dump(exclude={"strength"}).values()
