"""What a training run can be told: TOML -> strict models. docs/recipes.md says what every key does.

A value has the type of its default; an unknown key is an error that names the nearest known one. All paths are
relative to the folder in which the trainer is started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from condprep.types import ConditionKind
from trainer.recipe.outcome import Cache, Ema, Eval, Log, Save, Strings
from trainer.recipe.table import Count, Positive, Share, Table
from trainer.types import Precision

Beta = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["constant", "constant_with_warmup", "linear", "polynomial", "cosine"]
Optimizer = Literal["adamw", "adamw8bit", "prodigy", "adafactor"]

LEAST_FACTOR = 0.01  # of prodigy's own rate: less is a rate by a slip


class Model(Table):
    """The base model, which stays as it is, and the ControlNet that is trained."""

    base: str = Field(
        default="stable-diffusion-v1-5/stable-diffusion-v1-5",
        min_length=1,
        description="base model: a diffusers pipeline folder, its name on the Hub, or a single safetensors file",
    )
    revision: str = Field(
        default="", description='of the base on the Hub: branch, tag or commit; "" is its main branch'
    )
    config: str = Field(
        default="",
        description='of a single file: a diffusers folder or Hub name with its configuration and tokenizers; "" finds it by the weights',
    )
    family: Literal["auto", "sd", "sdxl", "sd3", "flux", "qwen-image", "z-image"] = Field(
        default="auto", description="what the base must be; auto takes what it is"
    )
    init: str = Field(
        default="unet",
        min_length=1,
        description='where the ControlNet starts: "unet", a copy of the base (of its transformer, where it has one); or a ControlNet\'s folder or Hub name',
    )
    blocks: int = Field(
        default=0,
        ge=0,
        le=100,
        description="of the base's transformer that the ControlNet copies; 0: as many as is usual for the family",
    )
    embedder: Literal["usual", "normed"] = Field(
        default="usual",
        description="how the condition embedder of a UNet's copy begins: as diffusers has it, or such that a map keeps its contrast",
    )
    vae: str = Field(default="", description='another VAE: folder or Hub name; "" is the base\'s own')
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = Field(
        default="auto", description="what the base predicts; auto is what its scheduler says"
    )
    quantize: Literal["none", "fp8", "nf4"] = Field(
        default="none",
        description="weights of the frozen UNet or transformer; fp8 takes half of what bf16 takes, nf4 a quarter, is for sd3, flux and qwen-image, and needs bitsandbytes",
    )
    safetensors: bool = Field(default=True, description="open safetensors files alone; false admits pickled weights")

    @model_validator(mode="after")
    def _embedder_of_a_copy(self) -> Model:
        if self.embedder != "usual" and self.init != "unet":
            raise ValueError(
                f"model.embedder = {json.dumps(self.embedder)} is how a copy of the base begins, and model.init ="
                f' {json.dumps(self.init)} has learned its own: say model.embedder = "usual", or model.init = "unet"'
            )
        return self


class Data(Table):
    """The rows, and what is done to a picture and its map together."""

    path: str = Field(default="ds/", min_length=1, description="dataset: any that `condprep verify` reads")
    split: str = Field(default="train", min_length=1, description="the rows to train on")
    validation: str | Annotated[float, Field(gt=0, lt=1)] = Field(
        default="validation",
        description='held-out rows: a split; a share of the rows of `split`, as 0.02; or "" for none',
    )
    validation_by: Literal["key", "group"] = Field(
        default="key",
        description="what decides whether a row is of that share: its key, or the folder or tar of its picture",
    )
    image_column: str = Field(default="image", min_length=1, description="the pictures")
    condition_column: str = Field(default="conditioning_image", min_length=1, description="the condition maps")
    conditions: Strings = Field(
        default=(),
        description="columns of maps of several kinds, all of which one ControlNet learns; empty: data.condition_column",
    )
    caption_column: str = Field(
        default="text", min_length=1, description="the captions: a string, or several to choose from"
    )
    mask_column: str = Field(
        default="", description='weights of the loss, a grey picture a row: white counts, black does not; "" for none'
    )
    kind: Literal["auto", ConditionKind] = Field(
        default="auto", description="kind of condition that the dataset must hold; auto takes what is there"
    )
    resolution: int = Field(
        default=512,
        ge=64,
        le=4096,
        multiple_of=8,
        description="side of a square, square root of a bucket's area; pixels",
    )
    fit: Literal["bucket", "crop"] = Field(
        default="bucket", description="rows of another size go to the nearest aspect bucket, or to the square"
    )
    crop: Literal["center", "random"] = Field(
        default="center",
        description="which part of a row that is larger than its bucket; random needs cache.latents = false",
    )
    hflip: Share = Field(default=0.0, description="probability that picture and map are mirrored; poses are drawn anew")
    caption_dropout: Share = Field(default=0.1, description="probability that a caption is replaced by the empty one")
    streaming: bool = Field(
        default=False, description="open the dataset's files as they are needed, and look at none of the others before"
    )
    window: Positive = Field(default=4096, description="rows that are shuffled together where they are streamed")
    max_rows: Count = Field(default=0, description="train on that many rows, evenly chosen; 0 is all")
    num_workers: Count = Field(default=4, description="threads that decode pictures; 0 decodes in the loop")

    @property
    def condition_columns(self) -> tuple[str, ...]:
        """All of which the maps are learned from."""
        return self.conditions or (self.condition_column,)

    def alone(self, column: str) -> Data:
        """The same with the conditions of that column alone."""
        return self.model_copy(update={"condition_column": column, "conditions": ()})

    @model_validator(mode="after")
    def _several_conditions(self) -> Data:
        if not self.conditions:
            return self
        named = f"data.conditions = {json.dumps(self.conditions)}"
        if len(self.conditions) == 1:
            raise ValueError(f"{named} is one kind: say data.condition_column = {json.dumps(self.conditions[0])}")
        if twice := [name for n, name in enumerate(self.conditions) if name in self.conditions[:n]]:
            raise ValueError(f"{named} names {twice[0]!r} twice")
        for key in ("condition_column", "kind"):
            found, usual = getattr(self, key), Data.model_fields[key].default
            if found != usual:
                raise ValueError(
                    f"{named} has several, and data.{key} = {json.dumps(found)} is of one: say one of the two"
                )
        return self

    @property
    def share(self) -> float:
        """Of the rows of `split` that the recipe itself holds out; 0 where the dataset does."""
        return 0.0 if isinstance(self.validation, str) else self.validation

    @property
    def whole(self) -> tuple[str, str] | None:
        """What is chosen among all rows, with what to say instead."""
        if self.share:
            return f"data.validation = {self.validation}", 'name a split, or say "" for no held-out rows'
        return (
            (f"data.max_rows = {self.max_rows}", "say 0, and train.steps for fewer updates") if self.max_rows else None
        )


class Text(Table):
    """The captions, as they are learned from."""

    captions: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]] = Field(
        default={},
        description="columns of captions with their weights, one drawn each time; empty: those of data.caption_column",
    )
    max_tokens: int = Field(
        default=75, ge=75, le=750, multiple_of=75, description="that a caption may have; more than 75 in chunks of 75"
    )
    clip_skip: int = Field(default=0, ge=0, le=24, description="last layers of the text encoders that are not asked")
    shuffle: bool = Field(
        default=False, description="tags, parted by commas, in another order each time; needs cache.text = false"
    )
    keep: Count = Field(default=1, description="first tags that stay where they are when the others are shuffled")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `captions`, the heaviest first: its captions are what a row is shown with."""
        return tuple(sorted(self.captions, key=lambda name: (-self.captions[name], name)))

    @property
    def plain(self) -> bool:
        """Whether captions are encoded as the pipelines of diffusers encode them by themselves."""
        return self.max_tokens == Text.model_fields["max_tokens"].default and not self.clip_skip


class Train(Table):
    """The optimisation."""

    steps: Count = Field(default=10_000, description="updates; 0 where `epochs` is given")
    epochs: Count = Field(default=0, description="passes over the rows, instead of `steps`; 0: `steps` says")
    batch: Positive = Field(default=16, description="pictures per update, over all processes")
    micro_batch: Positive | Literal["auto"] = Field(
        default=4, description="pictures per forward pass of a process; auto measures what fits"
    )
    lr: float = Field(default=1e-5, gt=0, le=1, description="peak learning rate; of prodigy a factor, 1 is usual")
    schedule: Schedule = Field(
        default="constant_with_warmup", description="of the learning rate; all but constant begin with the warm-up"
    )
    warmup: Count = Field(default=500, description="updates until the peak")
    power: float = Field(default=2.0, gt=0, description="of the polynomial schedule; 1 is linear")
    optimizer: Optimizer = Field(
        default="adamw", description="adamw8bit needs bitsandbytes, prodigy finds its own rate and needs prodigyopt"
    )
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="of all but adafactor"
    )
    eps: float = Field(default=1e-8, gt=0, le=1, description="of all but adafactor")
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="of the optimizer")
    max_grad_norm: float = Field(default=1.0, ge=0, description="gradients are clipped to this norm; 0 does not clip")
    precision: Precision = Field(default="bf16", description="of the forward and backward pass")
    weights: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of what is trained; bf16 takes half, gradients too, and is rounded at random"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes the GPU where there is one")
    shard: Literal["auto", "no", "full"] = Field(
        default="auto",
        description="full shares weights, gradients and moments, and the base, out to the processes; auto does where one device has no room for the whole",
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory, about a third slower")
    compile: bool = Field(
        default=False, description="torch.compile of the blocks that the networks repeat; needs a C++ compiler"
    )
    snr_gamma: float = Field(default=0.0, ge=0, description="min-SNR weighting of the loss, 5 is usual; 0 is none")
    timesteps: Literal["auto", "uniform", "logit_normal"] = Field(
        default="auto",
        description="how noise is drawn for a flow: auto is logit_normal; other bases know uniform alone",
    )
    shift: Annotated[float, Field(ge=0.1, le=100)] | Literal["auto"] = Field(
        default="auto", description="of a flow's noise towards more of it; auto is what the base's scheduler says"
    )
    weighting: Literal["none", "preconditioned", "cosmap"] = Field(
        default="none",
        description="of a flow's loss, as diffusers' script for SD 3 has it; its default is preconditioned",
    )
    noise_offset: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="noise that a channel has in common, so that brightness is learned; 0.05 is usual",
    )
    input_perturbation: float = Field(
        default=0.0, ge=0, le=1, description="further noise, which is not to be predicted; 0.1 is usual"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of everything that is drawn at random")

    @property
    def unshared(self) -> str | None:
        """Why weights cannot be shared out to processes, in words that follow the key; None where they can."""
        if self.optimizer != "adamw":
            return f'needs train.optimizer = "adamw", not "{self.optimizer}", which looks at more of a weight than its part'
        if self.precision == "fp16":
            return 'has not been tried with train.precision = "fp16": say "bf16" or "fp32"'
        if self.compile:
            return "has not been tried with train.compile = true: say train.compile = false"
        return None

    @model_validator(mode="before")
    @classmethod
    def _epochs_instead(cls, given: Any) -> Any:
        """`epochs` alone replaces the default of `steps`."""
        return {"steps": 0} | given if isinstance(given, dict) and given.get("epochs") else given


class Recipe(Table):
    """A whole recipe, validated."""

    model: Model = Model()
    data: Data = Data()
    text: Text = Text()
    cache: Cache = Cache()
    train: Train = Train()
    ema: Ema = Ema()
    eval: Eval = Eval()
    log: Log = Log()
    save: Save = Save()

    @property
    def encoded_ahead(self) -> dict[str, bool]:
        """Which encoders have nothing to do beside the updates, as `Base.offload` takes it."""
        ahead = not self.data.streaming
        return {"vae": ahead and self.cache.latents, "text": ahead and self.cache.text}

    @model_validator(mode="after")
    def _combinations(self) -> Recipe:
        """What no single value shows. The messages quote the user's own keys."""
        train, micro = self.train, self.train.micro_batch
        if bool(train.steps) == bool(train.epochs):
            raise ValueError(f"train.steps = {train.steps} and train.epochs = {train.epochs}: give one of the two")
        if isinstance(micro, int) and train.batch % micro:
            raise ValueError(f"train.batch = {train.batch} is not a multiple of train.micro_batch = {micro}")
        if train.optimizer == "prodigy" and train.lr < LEAST_FACTOR:
            raise ValueError(
                f"train.lr = {train.lr:g} is a factor of the rate that prodigy finds by itself: say train.lr = 1.0"
            )
        if train.weights == "bf16" and train.precision != "bf16":
            raise ValueError(f'train.weights = "bf16" needs train.precision = "bf16", not "{train.precision}"')
        if train.weights == "bf16" and train.optimizer == "prodigy":
            raise ValueError(
                'train.weights = "bf16" is not for prodigy, which looks at all weights at once: say "fp32"'
            )
        if self.model.quantize != "none" and train.compile:
            raise ValueError(
                f'model.quantize = "{self.model.quantize}" has not been tried with train.compile = true: say train.compile = false, or "none"'
            )
        if train.shard == "full" and train.unshared:
            raise ValueError(f'train.shard = "full" {train.unshared}')
        if self.data.crop == "random" and self.cache.latents:
            raise ValueError(
                'data.crop = "random" cannot be cached: say cache.latents = false, or data.crop = "center"'
            )
        if self.data.streaming and (needs := self.data.whole):
            raise ValueError(
                f"data.streaming = true looks at no row in advance, and {needs[0]} takes all of them: {needs[1]}"
            )
        if self.text.shuffle and self.cache.text:
            raise ValueError("text.shuffle = true cannot be cached: say cache.text = false, or text.shuffle = false")
        if self.text.captions and self.data.caption_column != Data.model_fields["caption_column"].default:
            raise ValueError(
                f"text.captions names columns, and so does data.caption_column = {self.data.caption_column!r}: say one of the two"
            )
        if self.eval.stop_when and not (self.eval.fidelity and self.eval.every):
            raise ValueError(
                f"eval.stop_when = {self.eval.stop_when} waits for better fidelity: say eval.fidelity = true, and eval.every"
            )
        if self.data.conditions and self.eval.conditions:
            raise ValueError(
                "eval.conditions are maps of one kind, and data.conditions has several: leave eval.conditions empty, samples are of held-out rows"
            )
        if len(self.eval.prompts) != len(self.eval.conditions):
            found = f"{len(self.eval.prompts)} and {len(self.eval.conditions)}"
            raise ValueError(f"eval.prompts and eval.conditions have {found} entries: give a prompt for each condition")
        return self


def by_key(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A recipe's tables as {"train.lr": 1e-5, ...}."""
    return {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
