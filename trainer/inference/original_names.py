"""Names of a ControlNet's weights: as diffusers has them -> as in the files of its authors, which other programs read.

Source: the modules of ControlNet (Zhang et al., 2023), a copy of the encoder of latent diffusion: `input_blocks` counts
what diffusers numbers within `down_blocks`, `input_hint_block` is the condition embedder with its activations, and
`zero_convs` are what diffusers calls `controlnet_down_blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.errors import ModelError

PREFIX = "control_model."
HINTS = 4  # widths of a condition embedder that halves three times: the original has no other
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
    "controlnet_mid_block": "middle_block_out.0",
}
Rule = Callable[[Sequence[str], int], str]  # what a pattern has found, layers per block -> the name
RULES: Mapping[str, Rule] = {
    r"controlnet_cond_embedding\.blocks\.(\d+)": lambda found, _: f"input_hint_block.{2 * int(found[0]) + 2}",
    r"controlnet_down_blocks\.(\d+)": lambda found, _: f"zero_convs.{found[0]}.0",
    r"down_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)": lambda found, layers: (
        f"input_blocks.{_block(found, layers)}.0.{RESNET[found[2]]}"
    ),
    r"down_blocks\.(\d+)\.attentions\.(\d+)\.(.+)": lambda found, layers: (
        f"input_blocks.{_block(found, layers)}.1.{found[2]}"
    ),
    r"down_blocks\.(\d+)\.downsamplers\.0\.conv": lambda found, layers: (
        f"input_blocks.{(int(found[0]) + 1) * (layers + 1)}.0.op"
    ),
    r"mid_block\.resnets\.(\d+)\.(\w+)": lambda found, _: f"middle_block.{2 * int(found[0])}.{RESNET[found[1]]}",
    r"mid_block\.attentions\.0\.(.+)": lambda found, _: f"middle_block.1.{found[0]}",
}


def original_names(names: Sequence[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Each name of diffusers, as "conv_in.weight", with the original one, which begins with "control_model.".

    config: the ControlNet's config.json. Raises ModelError for what the original never had.
    """
    hints = len(config["conditioning_embedding_out_channels"])
    if hints != HINTS:
        raise ModelError(
            f"its condition is reduced {2 ** (hints - 1)} times, and the original names are for {2 ** (HINTS - 1)} times"
        )
    if (channels := config.get("conditioning_channels", 3)) != 3:
        raise ModelError(f"its conditions, of several kinds, come in {channels} channels, and the original has three")
    return {name: PREFIX + _original(name, int(config["layers_per_block"])) for name in names}


def _original(name: str, layers: int) -> str:
    module, _, kind = name.rpartition(".")  # kind: weight or bias
    if module in WHOLE:
        return f"{WHOLE[module]}.{kind}"
    for pattern, rule in RULES.items():
        if match := re.fullmatch(pattern, module):
            return f"{rule(match.groups(), layers)}.{kind}"
    raise ModelError(f"the original names have none for {name}")


def _block(found: Sequence[str], layers: int) -> int:
    """The place in input_blocks: each of diffusers' blocks has `layers`, and one that halves."""
    return 1 + int(found[0]) * (layers + 1) + int(found[1])
