"""Stable Diffusion with one ControlNet for several kinds of conditions, each of which comes in channels of its own.

It is diffusers' ControlNetModel, of four channels a kind, in the recipe's order: red, green, blue, and one that says that the map
is given. What is not given is 0 in all four. So a black map, that of a picture without people, say, is not the same as none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, DiffusionPipeline
from torch import Tensor, nn

from trainer.models.kinds import Given, by_kind, check_order, condition_name
from trainer.models.missing import KIND, with_missing
from trainer.models.samplers import AUTO
from trainer.models.sd import StableDiffusion
from trainer.types import Batch

EACH = 4  # channels of a kind


class StableDiffusionOfKinds(StableDiffusion):
    @property
    def conditioning_channels(self) -> int:
        return EACH * len(self.kinds)

    def condition(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        return self._in_channels((batch.conditions / 255).to(dtype), batch.given)

    def _in_channels(self, maps: Tensor, given: Sequence[Sequence[int]]) -> Tensor:
        """What is missing in a map is no grey."""
        each = zip(maps.chunk(len(self.kinds), 1), self.kinds)
        known = [with_missing(map_) if kind == KIND else map_ for map_, kind in each]
        return in_channels(torch.cat(known, 1), given, len(self.kinds))

    def fitting(self, init: str, controlnet: ControlNetModel) -> ControlNetModel:
        """One of one kind is widened; that of another run must have the kinds in the same order."""
        if controlnet.config.conditioning_channels == 3:
            return widened(controlnet, len(self.kinds))
        check_order(init, self.kinds)
        return controlnet

    def pipeline(self, controlnet: ControlNetModel, sampler: str = AUTO) -> DiffusionPipeline:
        made = super().pipeline(controlnet, sampler)

        def told(maps: Mapping[str, Any], given: Given) -> Given:
            size = given.get("height"), given.get("width")
            prepared = {kind: made.control_image_processor.preprocess(map_, *size) for kind, map_ in maps.items()}
            return {condition_name(made): self._in_channels(*behind_each_other(prepared, self.kinds))}

        return by_kind(made, self.kinds, told, own=Tensor)

    @staticmethod
    def usage(kinds: Sequence[str]) -> Iterator[str]:
        """How a pipeline of diffusers itself is told of kinds, for people: Markdown."""
        yield "In diffusers' own pipeline `image` is a tensor (pictures, channels, height, width), with four channels for each kind:"
        yield "red, green and blue, 0 to 1, and one that is 1; all four are 0 for a map that is not given."
        yield from ("", "| kind | channels |", "|---|---|")
        yield from (f"| {kind} | {EACH * n} to {EACH * n + 3} |" for n, kind in enumerate(kinds))


def behind_each_other(
    maps: Mapping[str, Tensor], kinds: Sequence[str | None]
) -> tuple[Tensor, Sequence[Sequence[int]]]:
    """Maps by kind, (B, C, H, W) each -> those of all K kinds, (B, C K, H, W), 0 where there is none, and for each row the
    numbers of those that there are."""
    first = next(iter(maps.values()))
    every = torch.cat([maps.get(str(kind), torch.zeros_like(first)) for kind in kinds], 1)
    return every, [[number for number, kind in enumerate(kinds) if kind in maps]] * len(first)


def in_channels(maps: Tensor, given: Sequence[Sequence[int]], kinds: int) -> Tensor:
    """Maps of K kinds, (B, C K, H, W), and the numbers of those that each row is given -> (B, (C + 1) K, H, W)."""
    each = maps.chunk(kinds, 1)  # (B, C, H, W), of each kind
    there = torch.zeros(len(maps), kinds)
    for row, numbers in enumerate(given):
        there[row, list(numbers)] = 1
    channels = []
    for map_, told in zip(each, there.to(maps).T[..., None, None, None], strict=True):
        channels += [map_ * told, told.expand(-1, -1, *maps.shape[2:])]
    return torch.cat(channels, 1)


def widened(controlnet: ControlNetModel, kinds: int) -> ControlNetModel:
    """The ControlNet of one kind as one of several: given any of them alone, it computes what it did."""
    first = controlnet.controlnet_cond_embedding.conv_in
    weight = torch.cat([first.weight, torch.zeros_like(first.weight[:, :1])], 1).repeat(1, kinds, 1, 1)
    first.weight, first.in_channels = nn.Parameter(weight.detach()), EACH * kinds
    controlnet.register_to_config(conditioning_channels=EACH * kinds)
    return controlnet
