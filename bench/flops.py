"""The arithmetic of an update, counted on networks without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def update_flops(base: Path, resolution: int) -> int:
    """Floating point operations of one picture of an update whose latents and text are cached.

    Forward and backward through the ControlNet, forward through the frozen UNet, and the gradient through its decoder; what
    the optimizer and a second computation of activations take is not counted.
    """
    import torch
    from diffusers import ControlNetModel
    from diffusers import UNet2DConditionModel as UNet
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNet.from_config(UNet.load_config(base, subfolder="unet")).requires_grad_(False)
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        side, width = resolution // 8, unet.config.cross_attention_dim
        noisy, text = torch.zeros(1, unet.config.in_channels, side, side), torch.zeros(1, 77, width)
        condition, timesteps = torch.zeros(1, 3, resolution, resolution), torch.zeros(1, dtype=torch.int64)
        added: dict[str, Any] = {}
        if unet.config.addition_embed_type == "text_time":
            pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            added = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)}}
        with FlopCounterMode(display=False) as counter:
            down, mid = controlnet(noisy, timesteps, text, condition, return_dict=False, **added)
            steered = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            unet(noisy, timesteps, text, return_dict=False, **steered, **added)[0].square().mean().backward()
    return int(counter.get_total_flops())
