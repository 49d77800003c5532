"""Z-Image: Qwen3's text as long as it is, one stream of picture and text with rotary positions, a flow.

A ControlNet of diffusers has no modules of its own for noise and text: it borrows the transformer's. Here they are lent without
being registered, so that they are neither trained, averaged, cast nor saved with it, and its folder holds what the pipeline loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar

import torch
from diffusers import ZImageControlNetModel, ZImageControlNetPipeline, ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model

from trainer.models.samplers import EULER, Make
from trainer.models.text import STATES, apart, filled
from trainer.models.transformer import TransformerBase
from trainer.types import Batch

TOKENS = 512  # max_sequence_length of ZImageControlNetPipeline, the chat's own included
PATCH = 2  # latents along a side of a token
LENT = (
    *("t_scale", "t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder", "noise_refiner", "context_refiner"),
    *("x_pad_token", "cap_pad_token"),
)

if not hasattr(ZImageControlNetModel, "gradient_checkpointing"):
    ZImageControlNetModel.gradient_checkpointing = False  # which diffusers 0.42.1 reads in training, and never sets


class ZImage(TransformerBase):
    family: ClassVar[str] = "z-image"
    lent: ClassVar[Sequence[str]] = LENT
    denoiser_kind: ClassVar[Any] = ZImageTransformer2DModel
    controlnet_kind: ClassVar[Any] = ZImageControlNetModel
    pipeline_kind: ClassVar[Any] = ZImageControlNetPipeline
    text_parts: ClassVar[Sequence[tuple[str, str, Any, Any]]] = (
        ("text_encoder", "tokenizer", Qwen3Model, Qwen2Tokenizer),
    )
    usual_blocks: ClassVar[int] = 6  # of 30, as Z-Image-Turbo-Fun-Controlnet-Union has them
    alike: ClassVar[Sequence[str]] = ("dim", "n_heads", "n_refiner_layers", "all_patch_size")
    noisy_argument: ClassVar[str] = "x"
    condition_argument: ClassVar[str] = "control_context"
    samplers: ClassVar[Mapping[str, Make]] = EULER
    longest_text: ClassVar[int | None] = TOKENS

    @property
    def layers(self) -> int:
        return int(self.denoiser.config.n_layers)

    @property
    def longest_side(self) -> int | None:
        return int(min(self.denoiser.config.axes_lens[1:]) * PATCH * self.factor)

    @property
    def condition_config(self) -> Mapping[str, int]:
        return {"control_in_dim": self.condition_channels}

    def encoded(self, number: int, captions: list[str]) -> Mapping[str, Tensor]:
        """Of Qwen3 the last layer but one, for the caption as what a user says in a chat."""
        encoder, tokenizer = self.text_encoders[number], self.tokenizers[number]
        said = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for caption in captions
        ]
        tokens = tokenizer(said, padding=True, max_length=TOKENS, truncation=True, return_tensors="pt")
        mask = tokens.attention_mask.to(encoder.device)
        output = encoder(tokens.input_ids.to(encoder.device), attention_mask=mask, output_hidden_states=True)
        return filled([states[kept] for states, kept in zip(output.hidden_states[-2], mask.bool())])

    def pipeline_text(self, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {STATES: apart(text)}

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        return {"cap_feats": [states.to(dtype) for states in apart(batch.text)]}

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """timesteps: sigmas; the network is told how much of the picture is there, and says the way from noise to picture."""
        shared = self.condition_kwargs(batch, noisy.dtype)
        shared |= {"x": list(noisy.unsqueeze(2)), "t": (1000 - timesteps * 1000) / 1000}  # rounded as in the pipeline
        found = controlnet(control_context=self.condition(batch, noisy.dtype), **shared)
        steered = {layer: residual.to(noisy.dtype) for layer, residual in found.items()}
        output = self.denoiser(controlnet_block_samples=steered, return_dict=False, **shared)[0]
        return -torch.stack(list(output)).squeeze(2)

    def heard(self, blocks: int) -> int:
        return blocks

    def places(self, blocks: int) -> list[int]:
        """Layers of the transformer that a ControlNet of so many speaks to: evenly from the first."""
        return [number * self.layers // blocks for number in range(blocks)]

    def copied(self, transformer: Any, blocks: int) -> Any:
        """Of the layers that it speaks to, of the refiner of noisy tokens, and of their embedding."""
        config, places = transformer.config, self.places(blocks)
        alike = (
            "all_patch_size",
            "all_f_patch_size",
            "dim",
            "n_refiner_layers",
            "n_heads",
            "n_kv_heads",
            "norm_eps",
            "qk_norm",
        )
        controlnet = ZImageControlNetModel(
            control_layers_places=places,
            **self.condition_config,
            **{name: config[name] for name in alike},
        )
        controlnet.control_all_x_embedder.load_state_dict(self.embedding(transformer))
        controlnet.control_noise_refiner.load_state_dict(transformer.noise_refiner.state_dict())
        for place, layer in zip(places, controlnet.control_layers):
            layer.load_state_dict(transformer.layers[place].state_dict(), strict=False)  # and projections of zeros
        return controlnet.train()

    def embedding(self, transformer: Any) -> Mapping[str, Tensor]:
        """What the embedding of the condition begins as: that of noisy tokens."""
        return dict(transformer.all_x_embedder.state_dict())

    def for_controlnet(self, condition: Tensor) -> list[Tensor]:
        """Of each row a film of one frame."""
        return list(condition.unsqueeze(2))

    def lend(self, controlnet: Any) -> None:
        vars(controlnet).update({name: getattr(self.denoiser, name) for name in LENT})

    def for_pipeline(self, controlnet: Any) -> Any:
        return borrowing(controlnet)


def borrowing(controlnet: Any) -> Any:
    """The same weights as a ControlNet into which a pipeline may register what it lends."""
    shallow = copy(controlnet)
    for name in LENT:
        vars(shallow)[name] = None
    shallow._modules, shallow._parameters = dict(controlnet._modules), dict(controlnet._parameters)
    return shallow
