"""Stable Diffusion 1.5 and 2.x: one CLIP text encoder, epsilon or v-prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from trainer.errors import ModelError
from trainer.models.base import COPIED, Base
from trainer.models.embedder import let_through
from trainer.models.missing import takes_missing, with_missing
from trainer.models.objectives.choose import objective_of, refuse_unsaid
from trainer.models.parts import Parts, fingerprint, frozen, mismatches, read_controlnet, read_model
from trainer.models.samplers import AUTO
from trainer.models.text import hears_as_trained, inside, one_after_the_other, token_chunks
from trainer.recipe.recipe import Model, Text
from trainer.types import Batch

# channels of the condition embedder, as ControlNetModel's default; each further one halves
EMBEDDER = (16, 32, 96, 256)
Residuals = tuple[Sequence[Tensor], Tensor]


class StableDiffusion(Base):
    family: ClassVar[str] = "sd"
    part: ClassVar[str] = "unet"
    controlnet_kind: ClassVar[Any] = ControlNetModel
    text_parts: ClassVar[Sequence[tuple[str, str, Any]]] = (("text_encoder", "tokenizer", CLIPTextModel),)
    pipeline_kind: ClassVar[Any] = StableDiffusionControlNetPipeline

    @classmethod
    def load(cls, parts: Parts, model: Model, text: Text) -> StableDiffusion:
        vae = (
            frozen(read_model(AutoencoderKL, model.vae, model.safetensors))
            if model.vae
            else parts.network(AutoencoderKL, "vae")
        )
        encoders = [parts.network(kind, part) for part, _, kind in cls.text_parts]
        tokenizers = [parts.config(CLIPTokenizer, part) for _, part, _ in cls.text_parts]
        unet = parts.network(UNet2DConditionModel, "unet")
        scheduler = _scheduler(parts.config(DDPMScheduler, "scheduler"), model)
        objective = objective_of(scheduler)
        vocabularies = [[sorted(t.get_vocab().items()), t.model_max_length] for t in tokenizers]
        zero = cls._empty_is_zero(parts)
        fingerprints = {
            "vae": fingerprint([vae], vae.config.scaling_factor, vae.config.shift_factor),
            "text": fingerprint(
                encoders,
                vocabularies,
                *["the empty one is zeros"] * zero,
                *[] if text.plain else [[text.max_tokens, text.clip_skip]],
            ),
            "unet": fingerprint([unet]),
            "schedule": fingerprint([], objective.name, objective.schedule),
        }
        base = cls(model, unet, vae, encoders, tokenizers, scheduler, objective, fingerprints, text, zero)
        base._check()
        return base

    @classmethod
    def _empty_is_zero(cls, parts: Parts) -> bool:
        return False

    def _check(self) -> None:
        """The parts fit each other. Raises ModelError."""
        width, expected = self._text_width(), self.denoiser.config.cross_attention_dim
        if width != expected:
            raise ModelError(f"{self.model.base}: the text encoders give {width} numbers, the UNet takes {expected}")
        channels, expected = self.vae.config.latent_channels, self.denoiser.config.in_channels
        if channels != expected:
            vae = self.model.vae or self.model.base
            raise ModelError(f"the VAE of {vae} has {channels} latent channels, the UNet takes {expected}")
        skipped, layers = self.text.clip_skip, min(one.config.num_hidden_layers for one in self.text_encoders)
        if skipped >= layers:
            raise ModelError(f"text.clip_skip = {skipped}, but a text encoder of {self.model.base} has {layers} layers")

    def _text_width(self) -> int:
        return int(self.text_encoders[0].config.hidden_size)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The text encoder's output; with `text.clip_skip` an earlier layer's, after the last norm, as diffusers has it."""
        encoder = self.text_encoders[0]
        ids = token_chunks(self.tokenizers[0], encoder, captions, self.chunks)
        output = encoder(ids, output_hidden_states=bool(self.text.clip_skip))
        states = output[0]
        if self.text.clip_skip:
            inner = getattr(encoder, "text_model", encoder)  # of transformers before 5
            states = inner.final_layer_norm(output.hidden_states[-1 - self.text.clip_skip])
        return {"prompt_embeds": one_after_the_other(states, self.chunks)}

    def lengths_beyond(self, captions: Sequence[str]) -> list[int]:
        tokenizer, most = self.tokenizers[0], self.chunks * inside(self.tokenizers[0], self.text_encoders[0])
        tokens = tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids if captions else []
        return [len(one) for one in tokens if len(one) > most]

    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        return None

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        return {"encoder_hidden_states": batch.text["prompt_embeds"].to(dtype)}

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        down, mid = self.residuals(controlnet, noisy, timesteps, batch)
        prediction: Tensor = self.denoiser(
            noisy,
            timesteps,
            down_block_additional_residuals=[residual.to(noisy.dtype) for residual in down],
            mid_block_additional_residual=mid.to(noisy.dtype),
            return_dict=False,
            **self.condition_kwargs(batch, noisy.dtype),
        )[0]
        return prediction

    def residuals(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Residuals:
        """What a ControlNet adds to the UNet's blocks, (B, ...) each, and to its middle."""
        shared = self.condition_kwargs(batch, noisy.dtype)
        condition = self.condition(batch, noisy.dtype)
        found: Residuals = controlnet(noisy, timesteps, controlnet_cond=condition, return_dict=False, **shared)
        return found

    @property
    def conditioning_channels(self) -> int:
        """Of `condition`."""
        return 3

    def condition(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """The maps of a batch as a ControlNet sees them, (B, C, H, W) in [0, 1]."""
        maps = (batch.conditions / 255).to(dtype)
        return with_missing(maps) if self.missing else maps

    def new_controlnet(self, init: str) -> ControlNetModel:
        if init != COPIED:
            controlnet = self.fitting(init, read_controlnet(ControlNetModel, init, self.model.safetensors))
            self._check_controlnet(init, controlnet)
            return controlnet
        halvings = self.factor.bit_length() - 1
        channels = (*EMBEDDER, *EMBEDDER[-1:] * halvings)[: halvings + 1]
        how = {"conditioning_embedding_out_channels": channels, "conditioning_channels": self.conditioning_channels}
        controlnet = ControlNetModel.from_unet(self.denoiser, **how).float()
        if self.model.embedder == "normed":
            let_through(controlnet.controlnet_cond_embedding)
        return controlnet

    def fitting(self, init: str, controlnet: ControlNetModel) -> ControlNetModel:
        """A ControlNet that was read, as one that takes `condition`. Raises ModelError where it cannot be."""
        return controlnet

    def _check_controlnet(self, init: str, controlnet: Any) -> None:
        """Raises ModelError that names what does not fit."""
        theirs = controlnet.config
        factor = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
        pairs = [
            *mismatches(theirs, self.denoiser.config),
            ("condition's reduction", factor, self.factor),
            ("conditioning_channels", theirs.conditioning_channels, self.conditioning_channels),
        ]
        for name, found, expected in pairs:
            if found != expected:
                raise ModelError(
                    f"model.init {init!r} does not fit {self.model.base!r}: its {name} is {found}, and it must be {expected}"
                )

    def pipeline(self, controlnet: ControlNetModel, sampler: str = AUTO) -> DiffusionPipeline:
        made = self.pipeline_kind(
            unet=self.denoiser,
            vae=self.vae,
            controlnet=controlnet,
            scheduler=self.sampler(sampler),
            **self._text_modules(),
            **self._pipeline_rest(),
        )
        made = takes_missing(made) if self.missing else made
        return (
            made
            if self.text.plain
            else hears_as_trained(made, lambda captions: self.pipeline_text(self.encode_text(captions)))
        )

    def _text_modules(self) -> dict[str, Any]:
        modules: dict[str, Any] = {}
        for (encoder, tokenizer, _), *loaded in zip(self.text_parts, self.text_encoders, self.tokenizers):
            modules |= {encoder: loaded[0], tokenizer: loaded[1]}
        return modules

    def _pipeline_rest(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        fragile = dtype == torch.float16 and self.vae.config.force_upcast
        self.vae.to(device, torch.float32 if fragile else dtype)
        for module in (self.denoiser, *self.text_encoders):
            module.to(device, dtype)

    def offload(self, *, vae: bool, text: bool) -> None:
        for module in (*[self.vae] * vae, *self.text_encoders * text):
            module.to("cpu")


def _scheduler(scheduler: DDPMScheduler, model: Model) -> DDPMScheduler:
    """With the recipe's prediction type. Raises ModelError for one that was another kind of scheduler."""
    refuse_unsaid(model.base, scheduler, ["beta_start", "trained_betas"])
    if (prediction_type := str(model.prediction_type)) == "auto":
        prediction_type = scheduler.config.prediction_type
    return DDPMScheduler.from_config(scheduler.config, prediction_type=prediction_type)
