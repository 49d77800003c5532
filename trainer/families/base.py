"""What a family of base models is to the trainer: everything that differs between SD, SDXL and those to come.

A family is one file: a child of `Base` and its entry in `FAMILIES` (trainer/families/__init__.py). Denoiser, VAE and
text encoders are frozen; the trainer changes the ControlNet alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.types import Batch, Latents

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
    from torch import Tensor


@dataclass
class Base(ABC):
    """A base model, loaded on the CPU in float32 (`to` moves it), frozen, in eval mode."""

    name: str  # as in the recipe: folder or Hub name
    revision: str | None
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler: DDPMScheduler  # with the schedule of betas that the base was trained with
    prediction_type: str  # "epsilon" or "v_prediction"

    family: ClassVar[str]

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @abstractmethod
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """B captions -> {"prompt_embeds": (B, L, D), ...}, one row a caption, on the text encoders' device and dtype."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Latents:
        """(B, 3, H, W) uint8 -> the posterior in the denoiser's space, float32, (B, C, H / factor, W / factor)."""

    @abstractmethod
    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        """What ControlNet and denoiser both take beside latents and timesteps: encoder_hidden_states, ..."""

    @abstractmethod
    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        """The size embedding of a row, all (height, width) or (top, left) in pixels; None for families without."""

    @abstractmethod
    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """The denoiser's output, steered by the ControlNet. noisy: (B, C, h, w); timesteps: (B,); -> (B, C, h, w).

        The batch is complete and on the device of `noisy`, whose dtype the conditions take, in [0, 1].
        """

    @abstractmethod
    def new_controlnet(self, init: str) -> ControlNetModel:
        """A ControlNet to train, float32: copied from the UNet ("unet"), or a ControlNet's folder or Hub name.

        Its condition embedder reduces by `factor`. Raises ModelError for one that does not fit this base.
        """

    @abstractmethod
    def pipeline(self, controlnet: ControlNetModel) -> DiffusionPipeline:
        """The diffusers pipeline of these very modules, without a safety checker."""

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Denoiser, VAE and text encoders onto a device in a dtype. A VAE that overflows in fp16 stays float32."""

    @abstractmethod
    def offload(self) -> None:
        """VAE and text encoders leave the device; the pipeline brings them back by `to`."""

    @abstractmethod
    def fingerprints(self) -> Mapping[str, str]:
        """{"vae": ..., "text": ...}: hashes of weights and configuration, what cached latents and text depend on."""

    def complete(self, batch: Batch) -> Batch:
        """The batch with what is not cached: latents of its pixels, embeddings of its captions."""
        latents = batch.latents if batch.pixels is None else self.encode_pixels(batch.pixels)
        return replace(batch, latents=latents, text=batch.text or self.encode_text(batch.captions))
