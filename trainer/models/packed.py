"""What FLUX.1 and Qwen-Image have alike: a token is a square of latents, and a ControlNet steers blocks at equal distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from trainer.models.samplers import WITH_SIGMAS, Make
from trainer.models.transformer import TransformerBase
from trainer.types import Batch

PATCH = 2  # latents along a side of a token


class PackedBase(TransformerBase):
    samplers: ClassVar[Mapping[str, Make]] = WITH_SIGMAS

    @property
    def latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels) // PATCH**2

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """timesteps: sigmas, as the network takes them."""
        steered = {
            name: residuals and [residual.to(noisy.dtype) for residual in residuals]
            for name, residuals in self.steering(controlnet, noisy, timesteps, batch).items()
        }
        prediction: Tensor = self.denoiser(**steered, **self.told(noisy, timesteps, batch))[0]
        return unpacked(prediction, (noisy.shape[2], noisy.shape[3]))

    def told(self, noisy: Tensor, timesteps: Tensor, batch: Batch) -> dict[str, Any]:
        """What ControlNet and denoiser are both told."""
        shared = self.condition_kwargs(batch, noisy.dtype)
        return shared | {"hidden_states": packed(noisy), "timestep": timesteps, "return_dict": False}

    def steering(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Mapping[str, Any]:
        """What a ControlNet adds to the base's blocks, of each (B, tokens, width), by the names that the base has for them; None: nothing."""
        condition = self.condition(batch, noisy.dtype)
        return self.residuals(controlnet(controlnet_cond=condition, **self.told(noisy, timesteps, batch)))

    def for_controlnet(self, condition: Tensor) -> Tensor:
        return packed(condition)

    def heard(self, blocks: int) -> int:
        return heard_of(self.layers, blocks)

    def residuals(self, found: Any) -> Mapping[str, Any]:
        """What of a ControlNet's output steers the base, by the base's names."""
        return {"controlnet_block_samples": found}


def heard_of(layers: int, blocks: int) -> int:
    """To how many of a ControlNet's blocks so many layers listen, each block speaking to as many of them."""
    return (layers - 1) // -(-layers // blocks) + 1


def packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h / 2 * w / 2, 4 C): a token of 2 x 2, row by row."""
    rows, channels, height, width = latents.shape
    squares = latents.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH**2)


def unpacked(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The other way; size: (h, w) of the latents."""
    rows, _, wide = tokens.shape
    squares = tokens.reshape(rows, size[0] // PATCH, size[1] // PATCH, wide // PATCH**2, PATCH, PATCH)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(rows, -1, *size)
