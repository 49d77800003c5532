"""SD 3, Qwen-Image and Z-Image with one ControlNet for several kinds of conditions, each as latents in channels of their own.

It is the family's ControlNet of diffusers, with C + 1 channels a kind, in the recipe's order: the C latents of its map, and one that
says that the map is given. What is not given is 0 in all of them. The pipelines of diffusers encode one map by themselves; those
of `load_pipeline` hand the ControlNet all maps that a call names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from trainer.models.channels import behind_each_other, in_channels
from trainer.models.kinds import Given, by_kind, check_order, condition_name
from trainer.models.qwen_image import QwenImage
from trainer.models.samplers import AUTO
from trainer.models.sd3 import StableDiffusion3
from trainer.models.transformer import TransformerBase
from trainer.models.z_image import ZImage


class LatentsOfKinds(TransformerBase):
    @property
    def condition_channels(self) -> int:
        return len(self.kinds) * (self.latent_channels + 1)

    def in_condition(self, hints: Tensor, given: Sequence[Sequence[int]]) -> Tensor:
        return in_channels(hints, given, len(self.kinds))

    def _check_controlnet(self, init: str, controlnet: Any) -> None:
        super()._check_controlnet(init, controlnet)
        check_order(init, self.kinds)

    def pipeline(self, controlnet: Any, sampler: str = AUTO) -> DiffusionPipeline:
        made = super().pipeline(controlnet, sampler)
        shown: list[Tensor] = []  # the condition of the call that is under way, a row for each of its maps

        def told(maps: Mapping[str, Any], given: Given) -> Given:
            """The first map, for its size and number; the ControlNet is shown all of them."""
            size, pictures = (given.get("height"), given.get("width")), given.get("num_images_per_prompt") or 1
            processor = getattr(made, "control_image_processor", made.image_processor)
            prepared = {kind: processor.preprocess(map_, *size) for kind, map_ in maps.items()}
            shown[:] = [self._seen(prepared).repeat_interleave(pictures, 0)]
            return {condition_name(made): next(iter(maps.values()))}

        @contextmanager
        def showing() -> Iterator[None]:
            asked = signature(made.controlnet.forward)

            def swap(_: nn.Module, positional: tuple[Any, ...], named: Given) -> tuple[tuple[Any, ...], Given]:
                call = asked.bind(*positional, **named)
                noisy = call.arguments[self.noisy_argument]
                (condition,) = shown
                rows = condition.repeat(len(noisy) // len(condition), 1, 1, 1).to(noisy[0])  # guidance doubles them
                call.arguments[self.condition_argument] = self.for_controlnet(rows)
                return call.args, call.kwargs

            hook = made.controlnet.register_forward_pre_hook(swap, with_kwargs=True)
            try:
                yield
            finally:
                hook.remove()
                shown.clear()

        return by_kind(made, self.kinds, told, own=(), meanwhile=showing)

    @torch.no_grad()
    def _seen(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """Maps by kind, (n, 3, H, W) in [-1, 1], as the ControlNet's condition, (n, condition_channels, h, w)."""
        hints = {
            kind: self.encode_pixels((map_.to(self.vae.device).float() + 1) * 127.5).mean
            for kind, map_ in prepared.items()
        }
        return self.in_condition(*behind_each_other(hints, self.kinds))

    @staticmethod
    def usage(kinds: Sequence[str]) -> Iterator[str]:
        """How a pipeline of diffusers itself is told of kinds, for people: Markdown."""
        yield "diffusers' own pipelines encode one map by themselves and know of no kinds: use that of `load_pipeline`. The ControlNet itself"
        yield f"takes {len(kinds)} times the latents of a map and a channel that is 1, zeros for a map that is not given, in this order:"
        yield f"{', '.join(kinds)}."


class StableDiffusion3OfKinds(LatentsOfKinds, StableDiffusion3):
    pass


class QwenImageOfKinds(LatentsOfKinds, QwenImage):
    pass


class ZImageOfKinds(LatentsOfKinds, ZImage):
    def embedding(self, transformer: Any) -> Mapping[str, Tensor]:
        """That of the transformer for each kind, and zeros for what says that a map is given."""
        found = dict(transformer.all_x_embedder.state_dict())
        for name in [name for name in found if name.endswith("weight")]:
            squares = found[name].unflatten(1, (-1, self.latent_channels))  # (width, places, C)
            wide = torch.cat([squares, torch.zeros_like(squares[..., :1])], -1)
            found[name] = wide.repeat(1, 1, len(self.kinds)).flatten(1)
        return found
