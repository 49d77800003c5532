"""What a recipe says of what is looked at and kept of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.recipe.table import Count, Positive, Table
from trainer.types import Precision

Strings = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists


class Cache(Table):
    """What is computed once and read from disk in every epoch."""

    latents: bool = Field(default=True, description="the VAE's posterior of every picture")
    text: bool = Field(default=True, description="the text encoders' output for every caption, and the empty one")
    dir: str = Field(default="", description='its folder; "" is beside the dataset')
    dtype: Precision = Field(default="fp16", description="of the stored latents and embeddings")
    limit: float = Field(
        default=50.0, gt=0, description="gigabytes that is kept of rows that are streamed, latents and text together"
    )
    check: bool = Field(default=False, description="compare every byte with what was written, and not only a few")


class Ema(Table):
    """The moving average of the weights, which is what is used afterwards."""

    enabled: bool = Field(default=True, description="keep an average, in fp32")
    device: Literal["auto", "cpu"] = Field(
        default="auto", description="auto is that of the training; cpu leaves a GPU its memory, and is a little slower"
    )
    decay: float = Field(default=0.9999, ge=0, lt=1, description="of the average, approached over the first updates")


class Eval(Table):
    """What is validated while training, on held-out rows."""

    every: Count = Field(default=500, description="updates between validations; 0: none")
    samples: Count = Field(default=8, description="pictures generated each time")
    sampler: str = Field(
        default="auto", min_length=1, description='how pictures are drawn, as "euler"; auto is the family\'s own'
    )
    sampler_steps: Positive = Field(default=20, description="steps of a picture, by the sampler")
    cfg: float = Field(default=7.5, ge=0, description="classifier-free guidance")
    loss_rows: Count = Field(
        default=64, description="rows of the held-out loss and the condition gap, evenly spread; 0: neither"
    )
    fidelity: bool = Field(
        default=False, description="measure at each validation whether pictures follow their condition"
    )
    fidelity_rows: int = Field(default=16, ge=2, description="held-out rows of `fidelity`")
    stop_when: Count = Field(
        default=0, description="validations without better fidelity after which the run ends; 0: none"
    )
    conditions: Strings = Field(default=(), description="map files to generate from, instead of the dataset's")
    prompts: Strings = Field(default=(), description="one for each of `conditions`")

    @property
    def rows(self) -> int:
        """The most held-out rows that a validation looks at; 0: there is none."""
        return max(self.loss_rows, self.samples, self.fidelity * self.fidelity_rows) if self.every else 0


class Log(Table):
    """What is written down."""

    every: Positive = Field(default=10, description="updates between lines of metrics.jsonl")
    tracker: Literal["auto", "tensorboard", "wandb", "trackio", "none"] = Field(
        default="auto", description="auto is tensorboard where it is installed"
    )
    project: str = Field(default="condprep", min_length=1, description="its project")


class Save(Table):
    """Checkpoints and the result."""

    dir: str = Field(default="output/", min_length=1, description="the run's folder")
    every: Positive = Field(default=500, description="updates between checkpoints: the most that a killed run loses")
    keep: Positive = Field(default=3, description="newest checkpoints that stay")
    resume: str = Field(
        default="auto",
        min_length=1,
        description='"auto": the newest checkpoint if there is one; "never"; or one\'s folder',
    )
    push_to_hub: str = Field(default="", description='OWNER/NAME to which the result is pushed; "" for none')
