"""What the families with a transformer have in common: a flow, conditions as latents, text encoders too large to stay.

Transformer and text encoders are loaded in the precision of their files, since float32 would take a machine's memory for
nothing. A ControlNet of theirs is a copy of the transformer's first blocks; it takes the condition as the VAE encodes it, without
chance. A text encoder is on the denoiser's device while it encodes, and no longer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from trainer.errors import ModelError
from trainer.models.base import COPIED, Base
from trainer.models.objectives.choose import objective_of, refuse_unsaid
from trainer.models.parts import Parts, fingerprint, frozen, plain, read_model
from trainer.models.samplers import AUTO, FLOWS, Make
from trainer.models.text import hears_as_trained, one_below_the_other
from trainer.recipe.recipe import Model, Text
from trainer.types import Batch

ENCODED = 16  # captions at a time


class TransformerBase(Base):
    part: ClassVar[str] = "transformer"
    hints: ClassVar[bool] = True
    captions_at_once: ClassVar[int] = 256  # each text encoder comes to the device once for so many
    denoiser_kind: ClassVar[Any]
    vae_kind: ClassVar[Any] = AutoencoderKL
    text_parts: ClassVar[Sequence[tuple[str, str, Any, Any]]]  # encoder, tokenizer, and their classes
    optional_parts: ClassVar[Sequence[str]] = ()  # encoders that a base may lack
    usual_blocks: ClassVar[int]  # that a ControlNet copies
    alike: ClassVar[Sequence[str]]  # what the configurations of ControlNet and transformer have in common
    unheard_parts: ClassVar[Sequence[str]] = ()  # of the last block, whose output goes nowhere
    noisy_argument: ClassVar[str] = "hidden_states"  # of a ControlNet's call
    condition_argument: ClassVar[str] = "controlnet_cond"
    vae_settings: ClassVar[Sequence[str]] = ("scaling_factor", "shift_factor")  # of its configuration, for latents
    samplers: ClassVar[Mapping[str, Make]] = FLOWS

    @classmethod
    def load(cls, parts: Parts, model: Model, text: Text) -> Self:
        cls._refuse(model, text)
        vae = (
            frozen(read_model(cls.vae_kind, model.vae, model.safetensors))
            if model.vae
            else parts.network(cls.vae_kind, "vae")
        )
        there = [names for names in cls.text_parts if not cls._left_out(parts, names[0])]
        encoders = [parts.network(kind, name, stored=True) for name, _, kind, _ in there]
        tokenizers = [parts.config(kind, name) for _, name, _, kind in there]
        denoiser = parts.network(cls.denoiser_kind, cls.part, stored=True)
        scheduler = parts.config(FlowMatchEulerDiscreteScheduler, "scheduler")
        refuse_unsaid(model.base, scheduler, ["shift", "use_dynamic_shifting"])
        objective = objective_of(scheduler)
        vocabularies = [_reads(tokenizer) for tokenizer in tokenizers]
        fingerprints = {
            "vae": fingerprint([vae], *[vae.config[name] for name in cls.vae_settings]),
            "text": fingerprint(encoders, vocabularies, cls.family),
            cls.part: fingerprint([denoiser]),
            "schedule": fingerprint([], objective.name, objective.schedule),
        }
        base = cls(model, denoiser, vae, encoders, tokenizers, scheduler, objective, fingerprints, text)
        base._check()
        return base

    @classmethod
    def _refuse(cls, model: Model, text: Text) -> None:
        """Raises ModelError for keys of a recipe that other families know."""
        if model.prediction_type != "auto":
            raise ModelError(
                f'model.prediction_type = "{model.prediction_type}", but bases of family "{cls.family}" predict a flow: say "auto"'
            )
        if not text.plain:
            raise ModelError(
                f'text.max_tokens and text.clip_skip are for SD and SDXL; a base of family "{cls.family}" hears captions as'
                " its pipeline says them: leave both out"
            )

    @classmethod
    def _left_out(cls, parts: Parts, part: str) -> bool:
        """Whether the base says that it has no such encoder. One that it should have, and has not, is an error."""
        return part in cls.optional_parts and not any(parts.setting(part, [None]))

    def _check(self) -> None:
        """The parts fit each other. Raises ModelError."""
        found, expected = self.latent_channels, self.vae_channels
        if found != expected:
            vae = self.model.vae or self.model.base
            raise ModelError(f"the VAE of {vae} has {expected} latent channels, the transformer takes {found}")

    @property
    def latent_channels(self) -> int:
        """Of the latents that the transformer takes."""
        return int(self.denoiser.config.in_channels)

    @property
    def condition_channels(self) -> int:
        """Of the latents that a ControlNet takes as its condition."""
        return self.latent_channels

    @property
    @abstractmethod
    def condition_config(self) -> Mapping[str, int | None]:
        """What a ControlNet's configuration says of its condition."""

    def in_condition(self, hints: Tensor, given: Sequence[Sequence[int]]) -> Tensor:
        """The latents of maps, (B, K C, h, w), and which each row is given -> (B, condition_channels, h, w)."""
        return hints

    def for_controlnet(self, condition: Tensor) -> Any:
        """(B, condition_channels, h, w) as a ControlNet's call takes it."""
        return condition

    def condition(self, batch: Batch, dtype: torch.dtype) -> Any:
        """What a ControlNet is shown of a batch that is complete."""
        assert batch.hints is not None
        return self.for_controlnet(self.in_condition(batch.hints.to(dtype), batch.given))

    @property
    def layers(self) -> int:
        """Of the transformer."""
        return int(self.denoiser.config.num_layers)

    @abstractmethod
    def heard(self, blocks: int) -> int:
        """To how many blocks of a ControlNet that has so many the transformer listens: one block to several of its own."""

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for number, encoder in enumerate(self.text_encoders):
            with self.present(encoder):
                for start in range(0, len(captions), ENCODED):
                    some = self.encoded(number, list(captions[start : start + ENCODED]))
                    for name, states in some.items():
                        found.setdefault(name, []).append(states)
        return self.joined({name: one_below_the_other(states) for name, states in found.items()})

    @abstractmethod
    def encoded(self, number: int, captions: list[str]) -> Mapping[str, Tensor]:
        """What one of the text encoders, which is on the device, makes of some captions: names, and a row for each."""

    def joined(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the denoiser hears, of what the text encoders have made."""
        return found

    @contextmanager
    def present(self, encoder: nn.Module) -> Iterator[None]:
        """The encoder on the denoiser's device, and afterwards where it was. Where there is no room for both, the denoiser waits
        on the CPU."""
        place, device = next(encoder.parameters()).device, self.denoiser.device
        waits = not has_room(encoder, device)
        if waits:
            self.denoiser.to("cpu")
        encoder.to(device)
        try:
            yield
        finally:
            encoder.to(place)
            if waits:
                self.denoiser.to(device)

    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        return None

    def new_controlnet(self, init: str) -> Any:
        if init != COPIED:
            controlnet = read_model(self.controlnet_kind, init, self.model.safetensors)
            self._check_controlnet(init, controlnet)
            self.forget_unheard(controlnet)
            self.lend(controlnet)
            return controlnet
        fitting = [count for count in range(1, self.layers + 1) if self.heard(count) == count]
        blocks = self.model.blocks or max(count for count in fitting if count <= self.usual_blocks)
        if blocks not in fitting:
            raise ModelError(
                f"model.blocks = {blocks}: the transformer of {self.model.base}, which has {self.layers}"
                f" blocks, would not hear all of them; what fits is {', '.join(map(str, fitting))}"
            )
        lent = copy(self.denoiser)  # with a configuration of its own: diffusers may change that of what it copies
        lent._internal_dict = FrozenDict(self.denoiser.config)
        controlnet = self.copied(lent, blocks).float()
        self.forget_unheard(controlnet)
        self.lend(controlnet)
        return controlnet

    @abstractmethod
    def copied(self, transformer: Any, blocks: int) -> Any:
        """A ControlNet of the transformer's first blocks, in training mode, that at first changes nothing."""

    def forget_unheard(self, controlnet: Any) -> None:
        """Do not train what the transformer does not hear of: blocks beyond those that it listens to, and what of the last one goes nowhere.

        A ControlNet of others may have more of both than one that is copied here.
        """
        last = self.heard(len(controlnet.controlnet_blocks)) if self.unheard_parts else 0
        if last:
            freeze(*controlnet.transformer_blocks[last:], *controlnet.controlnet_blocks[last:])
            freeze(*map(controlnet.transformer_blocks[last - 1].get_submodule, self.unheard_parts))

    def _check_controlnet(self, init: str, controlnet: Any) -> None:
        """Raises ModelError that names what does not fit."""
        wanted = {**{key: self.denoiser.config[key] for key in self.alike}, **self.condition_config}
        for key, expected in wanted.items():
            if (found := plain(controlnet.config[key])) != (expected := plain(expected)):
                misfit = "data.conditions" if key in self.condition_config else repr(self.model.base)
                raise ModelError(
                    f"model.init {init!r} does not fit {misfit}: its {key} is {found}, and it must be {expected}"
                )

    def for_pipeline(self, controlnet: Any) -> Any:
        """The ControlNet as its pipeline may change it."""
        return controlnet

    def pipeline(self, controlnet: Any, sampler: str = AUTO) -> DiffusionPipeline:
        modules: dict[str, Any] = {}
        absent: dict[str, Any] = {name: None for names in self.text_parts for name in names[:2]}
        for (encoder, tokenizer, *_), *loaded in zip(self.text_parts, self.text_encoders, self.tokenizers):
            modules |= {encoder: loaded[0], tokenizer: loaded[1]}
        pipeline: DiffusionPipeline = self.pipeline_kind(
            transformer=self.denoiser,
            vae=self.vae,
            controlnet=self.for_pipeline(controlnet),
            scheduler=self.sampler(sampler),
            **(absent | modules),
        )
        return pipeline

    def validation_pipeline(self, controlnet: Any, sampler: str = AUTO) -> Any:
        return hears_as_trained(
            self.pipeline(controlnet, sampler), lambda captions: self.pipeline_text(self.encode_text(captions))
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        fragile = dtype == torch.float16 and self.vae.config.get("force_upcast", True)
        self.vae.to(device, torch.float32 if fragile else dtype)
        self.denoiser.to(device, dtype)
        for encoder in self.text_encoders:
            encoder.to(dtype)

    def offload(self, *, vae: bool, text: bool) -> None:
        if vae:
            self.vae.to("cpu")

    @property
    def resident(self) -> Sequence[Any]:
        return [self.vae]


def has_room(encoder: nn.Module, device: torch.device) -> bool:
    """Whether an encoder, with a tenth for what it makes of captions, fits on a device beside what lies there."""
    if device.type != "cuda":
        return True
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    needed = sum(parameter.nbytes for parameter in encoder.parameters())
    return 1.1 * needed < torch.cuda.mem_get_info(device)[0] + unused


def _reads(tokenizer: Any) -> list[Any]:
    """What tokens of a caption depend on."""
    chat = getattr(tokenizer, "chat_template", None)
    return [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length, *([chat] if chat else [])]


def freeze(*modules: nn.Module) -> None:
    """They are not trained: what is not heard has no gradient, which data parallelism waits for."""
    for module in modules:
        module.requires_grad_(False)
