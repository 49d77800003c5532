"""Stable Diffusion XL with one ControlNet for several kinds of conditions: diffusers' ControlNetUnionModel.

Each row is given its own kinds. Rows with as many of them go through the model together, since their
number is the length of the lists that it takes; within those lists every row has its own kind at each place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, DiffusionPipeline, StableDiffusionXLControlNetUnionPipeline
from torch import Tensor, nn

from trainer.errors import ModelError
from trainer.models.base import COPIED
from trainer.models.kinds import Given, by_kind, condition_name
from trainer.models.parts import read_controlnet
from trainer.models.samplers import AUTO
from trainer.models.sd import Residuals
from trainer.models.sdxl import StableDiffusionXL
from trainer.types import Batch

# by which it knows kinds: those of the first ControlNet of this class, which programs show as "hed/pidi/scribble/ted" for 2 and
# "canny/lineart/anime_lineart/mlsd" for 3; 7 is a picture of which parts are to be painted again
NUMBERS = {
    "pose": 0,
    "depth": 1,
    **{"softedge": 2, "scribble": 2},
    **{"canny": 3, "lineart": 3},
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
}
FEWEST, MOST = 6, 8  # numbers that it knows: without and with the picture's own kinds


@dataclass
class StableDiffusionXLUnion(StableDiffusionXL):
    control_types: int = FEWEST  # numbers that its ControlNet knows

    uneven: ClassVar[bool] = True
    controlnet_kind: ClassVar[Any] = ControlNetUnionModel
    pipeline_kind: ClassVar[Any] = StableDiffusionXLControlNetUnionPipeline

    def set_kinds(self, kinds: tuple[str | None, ...]) -> None:
        for n, kind in enumerate(kinds):
            if kind not in NUMBERS:
                raise ModelError(
                    f"data.conditions: SDXL's union ControlNet has no number for {kind}; it has {', '.join(NUMBERS)}"
                )
            if same := [other for other in kinds[:n] if NUMBERS[str(other)] == NUMBERS[kind]]:
                raise ModelError(
                    f"data.conditions: {same[0]} and {kind} are the same to SDXL's union ControlNet, which has one number for both:"
                    " leave one of them out"
                )
        super().set_kinds(kinds)
        self.control_types = MOST if max(self.numbers) >= FEWEST else FEWEST

    @property
    def numbers(self) -> list[int]:
        """Of each kind."""
        return [NUMBERS[str(kind)] for kind in self.kinds]

    def new_controlnet(self, init: str) -> ControlNetUnionModel:
        """A copy begins as the UNet's encoder: what it is told of kinds adds nothing yet."""
        if init == COPIED:
            return self._union(super().new_controlnet(COPIED))
        controlnet = read_controlnet(ControlNetUnionModel, init, self.model.safetensors)
        self._check_controlnet(init, controlnet)
        known = controlnet.config.num_control_type
        if unknown := [kind for kind, number in zip(self.kinds, self.numbers) if number >= known]:
            raise ModelError(
                f"model.init {init!r} knows {known} kinds of conditions, and {unknown[0]} is not one of them: leave it out"
                " of data.conditions"
            )
        self.control_types = known
        return controlnet

    def _union(self, copied: ControlNetModel) -> ControlNetUnionModel:
        """With the weights of a plain one, and those that tell kinds apart."""
        width = copied.config.block_out_channels[0]
        own = {"num_control_type": self.control_types, "num_trans_channel": width, "num_proj_channel": width}
        shared = {
            name: value for name, value in copied.config.items() if name != "mid_block_type"
        }  # which is always one
        union = ControlNetUnionModel.from_config({**shared, **own})
        union.load_state_dict(copied.state_dict(), strict=False)
        for parameter in union.control_add_embedding.linear_2.parameters():
            nn.init.zeros_(parameter)
        return union

    def lend(self, controlnet: ControlNetUnionModel) -> None:
        keep_rows_apart(controlnet)

    def residuals(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Residuals:
        found, order = [], list[int]()
        for count in sorted(set(map(len, batch.given))):
            rows = [row for row, given in enumerate(batch.given) if len(given) == count]
            found.append(self._of_as_many(controlnet, noisy[rows], timesteps[rows], batch.take(rows)))
            order += rows
        back = torch.tensor(order).argsort().to(noisy.device)
        down = [torch.cat(parts)[back] for parts in zip(*(down for down, _ in found))]
        return down, torch.cat([mid for _, mid in found])[back]

    def _of_as_many(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Residuals:
        """Of rows that are given as many conditions each."""
        rows, given = torch.arange(len(batch)), torch.tensor([*batch.given])  # (B,), (B, n)
        maps = (
            (batch.conditions / 255).to(noisy.dtype).reshape(len(batch), -1, 3, *batch.conditions.shape[2:])
        )  # (B, K, 3, H, W)
        numbers = torch.tensor(self.numbers)[given].to(noisy.device)  # (B, n)
        residuals: Residuals = controlnet(
            noisy,
            timesteps,
            controlnet_cond=[maps[rows, place] for place in given.T],
            control_type=noisy.new_zeros(len(batch), self.control_types).scatter(1, numbers, 1.0),
            control_type_idx=list(numbers.T),
            return_dict=False,
            **self.condition_kwargs(batch, noisy.dtype),
        )
        return residuals

    def pipeline(self, controlnet: ControlNetUnionModel, sampler: str = AUTO) -> DiffusionPipeline:
        self.lend(controlnet)
        made = super().pipeline(controlnet, sampler)

        def told(maps: Mapping[str, Any], _: Given) -> Given:
            return {condition_name(made): [*maps.values()], "control_mode": [NUMBERS[kind] for kind in maps]}

        return by_kind(made, self.kinds, told)

    @staticmethod
    def usage(kinds: Sequence[str]) -> Iterator[str]:
        """How a pipeline of diffusers itself is told of kinds, for people: Markdown."""
        yield "In diffusers' own pipeline `control_image` is a list of maps, and `control_mode` one of their numbers:"
        yield from ("", "| kind | number |", "|---|---|")
        yield from (f"| {kind} | {NUMBERS[kind]} |" for kind in kinds)


def keep_rows_apart(controlnet: ControlNetUnionModel) -> None:
    """Let no row look at another one: the model's attention goes over the rows of a pass, of which there is one where one picture is made."""
    for layer in controlnet.transformer_layes:
        layer.register_forward_pre_hook(_alone)


def _alone(layer: nn.Module, arguments: tuple[Tensor]) -> None:
    """Before an attention layer: each row, (B, tokens, channels), sees itself alone."""
    (rows,) = arguments
    layer.attn_mask = rows.new_full((len(rows), len(rows)), -torch.inf).fill_diagonal_(0)
