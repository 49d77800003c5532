"""In which number format a network computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# What "auto" is for each network, on a GPU and on a CPU; for those that are not here it is fp32. bf16 is only where the device
# computes in it natively. Half precision is where maps are on average less than a grey level from fp32's and 99.9 % of their
# pixels within 8 (docs/decisions/0049-half-precision.md has the figures), and fp16 where also nothing comes near its largest number.
AUTO: Mapping[str, tuple[Precision, Precision]] = {
    "hed": ("bf16", "bf16"),
    # and those of transformers, as the next three; but none that answers in metres: near the viewer inverse depth makes hundreds of
    # levels of what bf16 rounds, in each batch otherwise
    "depth": ("bf16", "bf16"),
    "normal": ("bf16", "bf16"),
    "segmentation": ("bf16", "bf16"),
    "mask": ("bf16", "bf16"),
    "normalbae": ("bf16", "fp32"),
    "lineart": ("fp16", "fp32"),  # bf16 makes 1.6 levels; what instance norms give is far from fp16's largest number
    "lineart_anime": ("fp16", "fp32"),  # bf16 makes 1.0
    "pidinet": ("fp16", "fp32"),  # bf16 makes 1.1 on textures; the coarsest scale stays in fp32
    # A joint is a whole pixel, so it moves by one or not at all. Of 166 joints (a MobileNet of this kind, four COCO pictures)
    # fp16 moves 5 % and bf16 23 %, nearly all by one pixel: too many for bf16, even where a CPU is faster in it.
    "openpose": ("fp16", "fp32"),
}


class NetworkParams(BaseModel):
    """How a network computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto", description="fp32, bf16, fp16 or auto: the fastest on the device that is near enough to fp32"
    )


class ExactParams(NetworkParams):
    """Of a network whose answer is a class for each pixel."""

    precision: Precision = Field(
        "fp32", description="fp32, bf16, fp16 or auto: bf16 where the device computes in it natively, else fp32"
    )


def resolve_precision(precision: Precision, device: str, network: str) -> Precision:
    """ "auto" -> what AUTO has for the network on such a device; the others are themselves."""
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    wanted = dict(zip(("cuda", "cpu"), AUTO.get(network, ()))).get(kind, "fp32")
    return "fp32" if wanted == "bf16" and not _native_bf16(kind) else wanted


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Convolutions and matrix products in `precision` ("fp32", "bf16", "fp16"); parameters stay float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def by_itself(device: str) -> Iterator[None]:
    """No autocast of whoever calls, on that device or on the CPU: an annotator computes as its record says, also amid a training step."""
    with ExitStack() as ending:
        for kind in {"cpu", torch.device(device).type}:
            ending.enter_context(torch.autocast(kind, enabled=False))
        yield


def exact(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on x's device."""
    return torch.autocast(x.device.type, enabled=False)


def _native_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # An older torch cannot tell: then it is the slower and exact fp32.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return kind == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
