"""In which number format a network computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: str) -> str:
    """ "auto" -> "bf16" where the device computes in it natively, else "fp32"; the others are themselves."""
    if precision != "auto":
        return precision
    return "bf16" if _native_bf16(torch.device(device).type) else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Convolutions and matrix products in `precision` ("fp32", "bf16", "fp16"); parameters stay float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32")


def _native_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # An older torch cannot tell: then it is the slower and exact fp32.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return kind == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
