"""What a family of base models is to the trainer: everything that differs between SD, SDXL and those to come.

A family is one file: a child of `Base`, or of `TransformerBase`, and its line in `FAMILIES` (trainer/models/families.py). Denoiser, VAE and
text encoders are frozen; the trainer changes the ControlNet alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from trainer.errors import ModelError
from trainer.models.missing import KIND
from trainer.models.objectives.protocol import Objective
from trainer.models.samplers import AUTO, DIFFUSIONS, Make, check_sampler
from trainer.models.text import CHUNK, pipeline_names
from trainer.recipe.recipe import Model, Recipe, Text
from trainer.types import Batch, Latents, PredictionType

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from trainer.models.parts import Parts

COPIED = "unet"  # in a recipe's model.init: the ControlNet is a copy of the denoiser, of whichever kind that is


@dataclass
class Base(ABC):
    """A base model: frozen and in eval mode, on the CPU in float32, or as it is stored, until `to` moves it."""

    model: Model  # the recipe's words for it
    denoiser: Any  # the UNet or transformer, of diffusers
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler: Any  # with the schedule that is trained with
    objective: Objective  # what the scheduler says that it has learned
    # {"vae": ..., "text": ..., "unet": ..., "schedule": ...}: sha256 of weights and configuration; "unet" or "transformer"
    fingerprints: Mapping[str, str]
    text: Text = field(default_factory=Text)  # the recipe's words for captions
    empty_is_zero: bool = False  # the empty caption is zeros, as the base's pipeline has it
    missing: bool = False  # black in a condition is what is missing of a picture: conditions of inpaint
    kinds: tuple[str | None, ...] = (None,)  # of the conditions that a ControlNet is given

    family: ClassVar[str]
    part: ClassVar[str]  # what a pipeline of diffusers calls the denoiser
    controlnet_kind: ClassVar[Any]  # classes of diffusers
    pipeline_kind: ClassVar[Any]
    four_bits: ClassVar[bool] = False  # are enough for the denoiser's weights
    lent: ClassVar[Sequence[str]] = ()  # parts of the denoiser that a ControlNet computes with, too, see `lend`
    hints: ClassVar[bool] = False  # a ControlNet takes its condition as latents
    uneven: ClassVar[bool] = False  # a batch takes as many passes of a ControlNet as its rows ask for
    captions_at_once: ClassVar[int] = 32  # that `encode_text` is given
    longest_text: ClassVar[int | None] = None  # tokens of the longest caption; None: every one is as long
    samplers: ClassVar[Mapping[str, Make]] = DIFFUSIONS  # the family's own first

    @property
    def prediction_type(self) -> PredictionType:
        return self.objective.name

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def vae_channels(self) -> int:
        """Of the latents that the VAE gives."""
        return int(self.vae.config.latent_channels)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of a picture, (height, width) in pixels."""
        return self.vae_channels, size[0] // self.factor, size[1] // self.factor

    @classmethod
    @abstractmethod
    def load(cls, parts: Parts, model: Model, text: Text) -> Base:
        """A base of its parts. Raises ModelError where one is missing, damaged or does not fit."""

    def set_kinds(self, kinds: tuple[str | None, ...]) -> None:
        """Of the conditions, which must be known where they are several. Raises ModelError for those that the base's ControlNet cannot have."""
        self.kinds, self.missing = kinds, kinds == (KIND,)

    @abstractmethod
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """B captions -> {"prompt_embeds": (B, L, D), ...}, a row each, on the text encoders' device, in their dtype.

        Where `longest_text` is said, L is that of the longest of these, and "prompt_mask" (B, L) is 1 where there is a token.
        """

    def lengths_beyond(self, captions: Sequence[str]) -> list[int]:
        """In tokens, of those captions that are cut, where a recipe may say that more are heard."""
        return []

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """What `encode_text` makes of one caption, the longest, by name."""
        made = {name: tuple(tensor.shape[1:]) for name, tensor in self.encode_text([""]).items()}
        return (
            made
            if self.longest_text is None
            else {name: (self.longest_text, *rest) for name, (_, *rest) in made.items()}
        )

    def pipeline_text(self, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `encode_text` has made, as the pipeline's `encode_prompt` takes it."""
        return pipeline_names(text)

    @abstractmethod
    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        """What the denoiser is told of a picture's sizes, (height, width), and crop, (top, left), in pixels; or None."""

    @abstractmethod
    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        """What ControlNet and denoiser both take beside latents and timesteps: encoder_hidden_states, ..."""

    @abstractmethod
    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """The denoiser's output under a ControlNet. noisy: (B, C, h, w); timesteps: (B,), the objective's; -> (B, C, h, w).

        The batch is complete and on the device of `noisy`. The condition goes in as [0, 1], in the dtype of `noisy`.
        """

    @abstractmethod
    def new_controlnet(self, init: str) -> Any:
        """A ControlNet to train, float32: copied from the denoiser (COPIED), or that of a folder or Hub name.

        To be called before `to` has rounded the denoiser: a copy of rounded weights would start from those. Raises ModelError for a ControlNet that does not fit this base.
        """

    def lend(self, controlnet: Any) -> None:  # noqa: B027  # most families lend nothing
        """Let a ControlNet compute with what it does not own, where its class borrows from the denoiser. To be said of every copy."""

    def sampler(self, name: str) -> Any:
        """A scheduler of diffusers by its name in a recipe. Raises ModelError for one that the family does not know."""
        return self.samplers[check_sampler(name, self.samplers, self.family)](self.scheduler.config)

    @abstractmethod
    def pipeline(self, controlnet: Any, sampler: str = AUTO) -> DiffusionPipeline:
        """The diffusers pipeline of these very modules, without a safety checker. sampler: "auto" is the family's own."""

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Denoiser, VAE and text encoders onto a device in a dtype; a VAE that overflows in fp16 stays float32."""

    @abstractmethod
    def offload(self, *, vae: bool, text: bool) -> None:
        """The VAE, the text encoders, or both leave the device; `to` brings them back."""

    def validation_pipeline(self, controlnet: Any, sampler: str = AUTO) -> Any:
        """As `pipeline`, where `resident` is on the denoiser's device and nothing else need be."""
        return self.pipeline(controlnet, sampler)

    @property
    def resident(self) -> Sequence[Any]:
        """What a pipeline needs on the device beside denoiser and ControlNet."""
        return [self.vae, *self.text_encoders]

    @property
    def longest_side(self) -> int | None:
        """In pixels, for which the denoiser has positions; None: any."""
        return None

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ModelError for pictures, (height, width) in pixels, that the denoiser has no positions for."""
        if self.longest_side and max(size) > self.longest_side:
            raise ModelError(
                f"{self.model.base} has positions for {self.longest_side} pixels a side, and a bucket has {size[1]} x"
                f" {size[0]}: say a smaller data.resolution"
            )

    def refuse(self, recipe: Recipe) -> None:
        """Raises RecipeError or ModelError for what the recipe says and this base cannot do."""
        self.objective.refuse(recipe.train)
        check_sampler(recipe.eval.sampler, self.samplers, self.family)
        if recipe.train.shard == "full" and self.uneven:
            raise ModelError(
                f'train.shard = "full" needs as many passes of every process, and a ControlNet of "{self.family}" makes one for'
                ' each number of maps that its rows are given: say "no", or one kind of conditions'
            )
        if self.model.quantize == "nf4" and not self.four_bits:
            raise ModelError(
                f'model.quantize = "nf4" is for bases of "sd3", "flux" and "qwen-image"; one of "{self.family}" loses more by it: say "fp8"'
            )
        if self.model.blocks and self.part == "unet":
            raise ModelError(
                f'model.blocks = {self.model.blocks} is for bases with a transformer; a ControlNet of family "{self.family}"'
                " copies the UNet's encoder whole: say model.blocks = 0"
            )
        if self.model.embedder != "usual" and self.part != "unet":
            raise ModelError(
                f'model.embedder = "{self.model.embedder}" is for bases with a UNet; a ControlNet of family "{self.family}" takes'
                ' its condition as latents, and has no such embedder: say model.embedder = "usual"'
            )

    @property
    def chunks(self) -> int:
        """Of a caption."""
        return self.text.max_tokens // CHUNK

    def complete(self, batch: Batch) -> Batch:
        """The batch with what is not cached: latents of its pixels and conditions, embeddings of its captions."""
        latents = batch.latents if batch.pixels is None else self.encode_pixels(batch.pixels)
        hints = batch.hints
        if self.hints and hints is None:
            hints = self.encode_conditions(batch.conditions)
        return replace(batch, latents=latents, hints=hints, text=batch.text or self.encode_text(batch.captions))

    def encode_conditions(self, conditions: Tensor) -> Tensor:
        """(B, 3 K, H, W) uint8 on the VAE's device -> (B, K C, h, w): maps of K kinds as latents, without chance."""
        return torch.cat([self.encode_pixels(one).mean for one in conditions.chunk(len(self.kinds), 1)], 1)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Latents:
        """(B, 3, H, W) uint8 on the VAE's device -> the posterior in the denoiser's space, float32."""
        posterior = self.vae.encode((pixels / 127.5 - 1).to(self.vae.dtype)).latent_dist
        shift, scale = self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor
        mean, std = (posterior.mean.float() - shift) * scale, posterior.std.float() * scale
        return Latents(mean.contiguous(), std.contiguous())  # as from the cache: another layout is compiled anew
