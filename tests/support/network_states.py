"""Checkpoints with random weights of the networks for HED and depth: every part matters, nothing vanishes."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from condprep.annotators.hed.network import CAFFE_MEANS, HedNetwork


def hed_state(seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint whose features keep their size from layer to layer and whose edges take all grey levels."""
    torch.manual_seed(seed)
    return {name: value.clone() for name, value in _hed(seed).items()}


@cache
def _hed(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    network = HedNetwork()
    network.norm.data = torch.tensor(CAFFE_MEANS).view(1, 3, 1, 1)
    for name, weight in network.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(weight)
            weight.data *= 0.02 if "projection" in name else 1
    return network.state_dict()


def depth_state(seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint in which every parameter matters, and whose depths span thousands, as those of MiDaS do."""
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    torch.manual_seed(seed)
    state: dict[str, Tensor] = DPTDepthModel(backbone="vitb_rn50_384").state_dict()
    for value in state.values():
        if value.ndim == 1:
            value += 0.1 * torch.randn_like(value)
    last = state["scratch.output_conv.4.weight"]
    last *= 2e4
    state["scratch.output_conv.4.bias"].zero_()
    return state
