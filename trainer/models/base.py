"""What a family of base models is to the trainer: everything that differs between SD, SDXL and those to come.

A family is one file: a child of `Base` and its line in `FAMILIES` (trainer/models/families.py). Denoiser, VAE and
text encoders are frozen; the trainer changes the ControlNet alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.models.objectives.protocol import Objective
from trainer.models.text import CHUNK
from trainer.recipe.recipe import Model, Text
from trainer.types import Batch, Latents, PredictionType

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
    from torch import Tensor

    from trainer.models.parts import Parts


@dataclass
class Base(ABC):
    """A base model: frozen and in eval mode, on the CPU in float32 until `to` moves it."""

    model: Model  # the recipe's words for it
    denoiser: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler: DDPMScheduler  # with the betas and the prediction type that are trained with
    objective: Objective  # what the scheduler says that it has learned
    fingerprints: Mapping[str, str]  # {"vae": ..., "text": ..., "unet": ...}: sha256 of weights and configuration
    text: Text = field(default_factory=Text)  # the recipe's words for captions
    empty_is_zero: bool = False  # the empty caption is zeros, as the base's pipeline has it

    family: ClassVar[str]

    @property
    def prediction_type(self) -> PredictionType:
        return self.objective.name

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of a picture, (height, width) in pixels."""
        return int(self.vae.config.latent_channels), size[0] // self.factor, size[1] // self.factor

    @classmethod
    @abstractmethod
    def load(cls, parts: Parts, model: Model, text: Text) -> Base:
        """A base of its parts. Raises ModelError where one is missing, damaged or does not fit."""

    @abstractmethod
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """B captions -> {"prompt_embeds": (B, L, D), ...}, a row each, on the text encoders' device, in their dtype."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Latents:
        """(B, 3, H, W) uint8 on the VAE's device -> the posterior in the denoiser's space, float32."""

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
    def new_controlnet(self, init: str) -> ControlNetModel:
        """A ControlNet to train, float32: copied from the UNet ("unet"), or that of a folder or Hub name.

        To be called while the UNet is float32: a copy of rounded weights would start from those. The condition embedder
        reduces by `factor`. Raises ModelError for a ControlNet that does not fit this base.
        """

    @abstractmethod
    def pipeline(self, controlnet: ControlNetModel) -> DiffusionPipeline:
        """The diffusers pipeline of these very modules, with UniPC and without a safety checker."""

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Denoiser, VAE and text encoders onto a device in a dtype; a VAE that overflows in fp16 stays float32."""

    @abstractmethod
    def offload(self, *, vae: bool, text: bool) -> None:
        """The VAE, the text encoders, or both leave the device; `to` brings them back."""

    @property
    def chunks(self) -> int:
        """Of a caption."""
        return self.text.max_tokens // CHUNK

    def complete(self, batch: Batch) -> Batch:
        """The batch with what is not cached: latents of its pixels, embeddings of its captions."""
        latents = batch.latents if batch.pixels is None else self.encode_pixels(batch.pixels)
        return replace(batch, latents=latents, text=batch.text or self.encode_text(batch.captions))
