"""What moves between the dataset, the cache and the loop.

Pictures and conditions are (B, 3, H, W) uint8 RGB, 0..255; H and W are one bucket for the whole batch. Latents are in
the denoiser's space: what the VAE says, already shifted and scaled. Text is what a family's text encoders return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Precision = Literal["bf16", "fp16", "fp32"]
PredictionType = Literal["epsilon", "v_prediction", "flow"]  # what a denoiser says
Program = Literal["comfyui", "a1111", "single-file"]  # that reads a ControlNet in one file
ONE_FILE = ".safetensors"  # what such a file ends with
Say = Callable[[str], None]  # is told what the user should know
ShowProgress = Callable[[str, int, int], None]  # what is done, how far, of how much
Measured = Callable[[Mapping[str, float]], None]  # is told the newest of each metric


def torch_dtype(precision: str) -> torch.dtype:
    """Of "bf16", "fp16" and "fp32"."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, as work is shared out to them."""

    rank: int = 0
    size: int = 1
    barrier: Callable[[], object] = lambda: None  # waits until all have come here
    together: bool = False  # a forward pass is made by all at once: each needs parts of the weights from the others

    def share(self, count: int) -> range:
        """The numbers below `count` that are this process's; where passes are made together, as many as any other has.

        Numbers from `count` on are then made to keep step, and do not count.
        """
        upto = -(-count // self.size) * self.size if self.together else count
        return range(self.rank, upto, self.size)


ONE_PROCESS = ProcessGroup()


@dataclass(frozen=True, slots=True)
class Latents:
    """The VAE's posterior of B pictures: a normal distribution for each value."""

    mean: Tensor  # (B, C, h, w)
    std: Tensor  # (B, C, h, w)

    def sample(self, noise: Tensor) -> Tensor:
        """One draw: noise (B, C, h, w) of a standard normal -> latents (B, C, h, w) of noise's dtype."""
        return self.mean.to(noise.dtype) + self.std.to(noise.dtype) * noise


@dataclass(frozen=True, slots=True)
class Draws:
    """All that is random about B rows."""

    timesteps: Tensor  # (B,), what the objective takes for them: int64 of a schedule, float32 of a flow
    posterior: Tensor  # (B, C, h, w): which latents are drawn from the VAE's posterior
    noise: Tensor  # (B, C, h, w): what is added to them, and has to be found again
    further: Tensor | None = None  # (B, C, h, w): what is added, too, and has not

    def each(self, change: Callable[[Tensor], Tensor]) -> Draws:
        """With every tensor changed."""
        further = None if self.further is None else change(self.further)
        return Draws(change(self.timesteps), change(self.posterior), change(self.noise), further)

    def to(self, device: torch.device | str) -> Draws:
        """The same on a device, without waiting for the copies."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs of one bucket. What is not cached is None (latents, hints) or empty (text), and `Base.complete` makes it."""

    keys: list[str]  # what the dataset calls its rows
    epochs: list[int]  # in which each was drawn: an update may hold a row of a rare bucket several times
    captions: list[str]  # the one that was chosen for each row; "" where it was dropped
    conditions: Tensor  # (B, 3, H, W) uint8; of K kinds (B, 3 K, H, W)
    latents: Latents | None = None
    pixels: Tensor | None = None  # (B, 3, H, W) uint8; None where latents are cached
    hints: Tensor | None = None  # (B, C, h, w): the conditions as latents, where a ControlNet takes them so
    text: Mapping[str, Tensor] = field(default_factory=dict)  # "prompt_embeds" (B, L, D), "pooled" (B, P)
    time_ids: Tensor | None = None  # SDXL: (B, 6), original height and width, crop top and left, height and width
    mask: Tensor | None = None  # (B, 1, h, w), 0..1: what each latent counts in the loss; None: all count
    draws: Draws | None = None  # of rows that are trained on, where they have been drawn ahead
    given: Sequence[tuple[int, ...]] = ()  # of K kinds: the numbers of those that each row is given

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device, without waiting for the copies."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which copies need no waiting."""
        return self._each(lambda tensor: tensor.pin_memory())

    def take(self, rows: Sequence[int]) -> Batch:
        """Those rows, by number; a row can be taken several times."""
        return replace(
            self._each(lambda tensor: tensor[list(rows)]),
            keys=[self.keys[row] for row in rows],
            epochs=[self.epochs[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            given=[self.given[row] for row in rows] if self.given else (),
        )

    def with_all_given(self, kinds: Sequence[int]) -> Batch:
        """Each row with the conditions of these numbers."""
        return replace(self, given=[tuple(kinds)] * len(self))

    def with_others_conditions(self) -> Batch:
        """Each row with that of the row before it."""
        hints = None if self.hints is None else self.hints.roll(1, 0)
        return replace(self, conditions=self.conditions.roll(1, 0), hints=hints)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            conditions=change(self.conditions),
            latents=self.latents and Latents(change(self.latents.mean), change(self.latents.std)),
            pixels=None if self.pixels is None else change(self.pixels),
            hints=None if self.hints is None else change(self.hints),
            text={name: change(tensor) for name, tensor in self.text.items()},
            time_ids=None if self.time_ids is None else change(self.time_ids),
            mask=None if self.mask is None else change(self.mask),
            draws=self.draws and self.draws.each(change),
        )

    def __len__(self) -> int:
        return len(self.keys)
