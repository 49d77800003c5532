"""Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, joint attention, learned positions, a flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import (
    DiffusionPipeline,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
)
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from trainer.models.kinds import Given, before_calls
from trainer.models.samplers import AUTO
from trainer.models.transformer import TransformerBase
from trainer.types import Batch

T5_TOKENS = 256  # max_sequence_length of StableDiffusion3ControlNetPipeline
CLIPS = 2  # the first of the text encoders


@dataclass
class StableDiffusion3(TransformerBase):
    bare: bool = False  # its ControlNet, one of others, hears no pooled text and takes latents that are not shifted

    family: ClassVar[str] = "sd3"
    four_bits: ClassVar[bool] = True
    denoiser_kind: ClassVar[Any] = SD3Transformer2DModel
    controlnet_kind: ClassVar[Any] = SD3ControlNetModel
    pipeline_kind: ClassVar[Any] = StableDiffusion3ControlNetPipeline
    text_parts: ClassVar[Sequence[tuple[str, str, Any, Any]]] = (
        ("text_encoder", "tokenizer", CLIPTextModelWithProjection, CLIPTokenizer),
        ("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, CLIPTokenizer),
        ("text_encoder_3", "tokenizer_3", T5EncoderModel, T5TokenizerFast),
    )
    optional_parts: ClassVar[Sequence[str]] = ("text_encoder_3",)
    unheard_parts: ClassVar[Sequence[str]] = ("ff_context", "attn.to_add_out")
    usual_blocks: ClassVar[int] = 12  # of SD3ControlNetModel.from_transformer
    alike: ClassVar[Sequence[str]] = (
        "in_channels",
        "patch_size",
        "num_attention_heads",
        "attention_head_dim",
        "joint_attention_dim",
        "pooled_projection_dim",
    )

    @property
    def condition_config(self) -> Mapping[str, int]:
        return {"extra_conditioning_channels": self.condition_channels - self.latent_channels}

    def encoded(self, number: int, captions: list[str]) -> Mapping[str, Tensor]:
        """Of a CLIP encoder the last layer but one and the projection; of T5 the last layer, padding included."""
        encoder, tokenizer = self.text_encoders[number], self.tokenizers[number]
        length = tokenizer.model_max_length if number < CLIPS else T5_TOKENS
        ids = tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        output = encoder(ids.to(encoder.device), output_hidden_states=number < CLIPS)
        if number >= CLIPS:
            return {"t5": output[0]}
        return {f"clip{number}": output.hidden_states[-2], f"pooled{number}": output.text_embeds}

    def joined(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """CLIP's states side by side, widened by zeros, before T5's, or zeros where there is no T5."""
        clip = torch.cat([found[f"clip{n}"] for n in range(CLIPS)], -1)
        width = self.denoiser.config.joint_attention_dim
        t5 = found.get("t5", clip.new_zeros(len(clip), T5_TOKENS, width))
        widened = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        pooled = torch.cat([found[f"pooled{n}"] for n in range(CLIPS)], -1)
        return {"prompt_embeds": torch.cat((widened, t5), 1), "pooled": pooled}

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        text = {name: states.to(dtype) for name, states in batch.text.items()}
        return {"encoder_hidden_states": text["prompt_embeds"], "pooled_projections": text["pooled"]}

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """timesteps: sigmas; the network counts in thousandths. A ControlNet of fewer blocks speaks to several each."""
        shared = self.condition_kwargs(batch, noisy.dtype) | {"hidden_states": noisy, "timestep": timesteps * 1000}
        told = shared | ({"pooled_projections": torch.zeros_like(shared["pooled_projections"])} if self.bare else {})
        (residuals,) = controlnet(controlnet_cond=self.condition(batch, noisy.dtype), return_dict=False, **told)
        steered = [residual.to(noisy.dtype) for residual in residuals]
        prediction: Tensor = self.denoiser(block_controlnet_hidden_states=steered, return_dict=False, **shared)[0]
        return prediction

    def in_condition(self, hints: Tensor, given: Sequence[Sequence[int]]) -> Tensor:
        config = self.vae.config
        return hints + (config.shift_factor or 0.0) * config.scaling_factor if self.bare else hints

    def new_controlnet(self, init: str) -> Any:
        """One that is read learns with what its pipeline will give it, as its own configuration says."""
        controlnet = super().new_controlnet(init)
        self.bare = bool(controlnet.config.force_zeros_for_pooled_projection)
        return controlnet

    def copied(self, transformer: Any, blocks: int) -> Any:
        """It hears the pooled text and takes shifted latents: without the flag its pipeline would give it neither."""
        (further,) = self.condition_config.values()
        controlnet = SD3ControlNetModel.from_transformer(transformer, blocks, num_extra_conditioning_channels=further)
        controlnet.register_to_config(force_zeros_for_pooled_projection=False)
        return controlnet

    def pipeline(self, controlnet: Any, sampler: str = AUTO) -> DiffusionPipeline:
        """It draws the condition's latents by the seeds of the call's generators, where diffusers' own takes them from nowhere:
        so a picture is the same alone and in a batch."""
        made = super().pipeline(controlnet, sampler)

        def change(given: Given) -> AbstractContextManager[None] | None:
            generators = given.get("generator") or []
            each = generators if isinstance(generators, list) else [generators]
            return _drawn_by([one.initial_seed() for one in each], made.vae) if each else None

        return before_calls(made, change)

    def heard(self, blocks: int) -> int:
        """The last block is not steered, so that of more blocks than half the last would not be heard."""
        return int((self.layers - 2) / (self.layers / blocks)) + 1

    @property
    def longest_side(self) -> int | None:
        return int(self.denoiser.config.pos_embed_max_size * self.denoiser.config.patch_size * self.factor)


@contextmanager
def _drawn_by(seeds: Sequence[int], vae: Any) -> Iterator[None]:
    """While it lasts, each row of what the VAE makes is drawn by its own seed; of more rows, as guidance has them, the seeds begin anew."""
    encode = vae.encode

    def encoded(*arguments: Any, **named: Any) -> Any:
        found = encode(*arguments, **named)
        sample, rows = found.latent_dist.sample, len(found.latent_dist.mean)
        of_rows = [seeds[row % len(seeds)] for row in range(rows)]
        found.latent_dist.sample = lambda: sample([torch.Generator().manual_seed(seed) for seed in of_rows])
        return found

    vae.encode = encoded
    try:
        yield
    finally:
        del vae.encode
