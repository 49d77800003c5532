"""FLUX.1 with one ControlNet for several kinds of conditions, as diffusers' FluxControlNetModel knows them: by a mode.

A mode is the number of a kind in the recipe's order. Each map goes through the model by itself, with a token for its mode before the
text; what the maps of a row add is summed, as FluxMultiControlNetModel of that one model sums it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxMultiControlNetModel
from torch import Tensor

from trainer.models.flux import Flux
from trainer.models.kinds import Given, by_kind, check_order
from trainer.models.packed import packed
from trainer.models.samplers import AUTO
from trainer.types import Batch


class FluxOfKinds(Flux):
    @property
    def modes(self) -> int | None:
        return len(self.kinds)

    def copied(self, transformer: Any, blocks: int) -> Any:
        transformer.register_to_config(num_mode=self.modes)
        return super().copied(transformer, blocks)

    def _check_controlnet(self, init: str, controlnet: Any) -> None:
        super()._check_controlnet(init, controlnet)
        check_order(init, self.kinds)

    def steering(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Mapping[str, Any]:
        """Of all maps that the rows are given in one pass."""
        assert batch.hints is not None
        pairs = [(row, kind) for row, given in enumerate(batch.given) for kind in given]
        rows, modes = torch.tensor(pairs, device=noisy.device).T
        hints = batch.hints.reshape(len(batch), len(self.kinds), -1, *batch.hints.shape[2:])  # (B, K, C, h, w)
        told = self.told(noisy[rows], timesteps[rows], batch.take([row for row, _ in pairs]))
        cond = packed(hints[rows, modes].to(noisy.dtype))
        found = self.residuals(controlnet(controlnet_cond=cond, controlnet_mode=modes[:, None], **told))
        return {
            name: each and [one.new_zeros(len(batch), *one.shape[1:]).index_add(0, rows, one) for one in each]
            for name, each in found.items()
        }

    def for_pipeline(self, controlnet: Any) -> Any:
        return FluxMultiControlNetModel([controlnet])

    def pipeline(self, controlnet: Any, sampler: str = AUTO) -> DiffusionPipeline:
        def told(maps: Mapping[str, Any], given: Given) -> Given:
            """A list for each of them: of shorter ones diffusers leaves maps out."""
            each = {"controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0}
            lists = {name: [given.get(name, usual)] * len(maps) for name, usual in each.items()}
            numbers = [self.kinds.index(kind) for kind in maps]
            return lists | {"control_image": [*maps.values()], "control_mode": numbers}

        return by_kind(super().pipeline(controlnet, sampler), self.kinds, told)

    @staticmethod
    def usage(kinds: Sequence[str]) -> Iterator[str]:
        """How a pipeline of diffusers itself is told of kinds, for people: Markdown."""
        yield "In diffusers' own pipeline the ControlNet is `FluxMultiControlNetModel([controlnet])`, `control_image` a list of maps,"
        yield "`control_mode` one of their numbers, and `controlnet_conditioning_scale`, `control_guidance_start` and"
        yield "`control_guidance_end` are lists of as many:"
        yield from ("", "| kind | number |", "|---|---|")
        yield from (f"| {kind} | {number} |" for number, kind in enumerate(kinds))
