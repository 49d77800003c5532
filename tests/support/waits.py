"""How often the host would wait for a device, counted without one: on the CPU, by the functions that wait on CUDA.

A tensor counts as the device's unless it came from the host (a list, an array, `cpu`) and was not moved since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from condprep.runtime.storages import tensors_in

# What only the values can answer: how large a result is, or what the host is to do next
ASK = {
    *(
        "nonzero",
        "argwhere",
        "masked_select",
        "unique",
        "_unique2",
        "unique_consecutive",
        "bincount",
        "equal",
        "allclose",
    ),
    *("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "__contains__"),
}
MADE = {"from_numpy", "tensor", "as_tensor", "asarray"}


class Waits(TorchFunctionMode):
    """Counts by name, as `found`: what waits for the device, "in" and "out" for copies, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def waits(self) -> int:
        """Copies to the host, and questions that only the device can answer."""
        return sum(count for name, count in self.found.items() if name != "in")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        given = tensors_in([*args, *named.values()])
        host = all(getattr(one, "_on_host", False) for one in given)
        if name in MADE and not given:
            made = func(*args, **named)
            if named.get("device") is None:
                return _on_host(made)
            return self._copied("in", made)
        if name == "cpu" or (name == "to" and _device_of(args[1:], named) is not None):
            return self._moved(func, name, args, named, host)
        if given and not host and (name in ASK or _asks(func, name, args, named)):
            self._copied(name, given[0])
        result = func(*args, **named)
        if given and host and name not in ("to", "cpu"):
            for one in tensors_in([result]):
                one._on_host = True  # type: ignore[attr-defined]
        return result

    def _moved(self, func: Any, name: str, args: Sequence[Any], named: dict[str, Any], host: bool) -> Any:
        """`cpu`, or `to` a device: here every device is the CPU, so the tensor is another only by its mark."""
        moved = func(*args, **named).view_as(args[0])
        if name == "cpu":
            return _on_host(moved) if host else _on_host(self._copied("out", moved))
        return self._copied("in", moved) if host else moved

    def _copied(self, way: str, tensor: Any) -> Any:
        self.found[way] += 1
        if isinstance(tensor, Tensor):
            self.bytes[way] += tensor.numel() * tensor.element_size()
        return tensor


def _asks(func: Any, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """An index by a mask, repeats that a tensor tells, and `where` with a condition alone."""
    if name in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        masks = [one for one in index if isinstance(one, Tensor) and one.dtype == torch.bool]
        # what is put there is put without asking
        return bool(masks) and not (name == "__setitem__" and not isinstance(args[2], Tensor))
    if name == "repeat_interleave":
        return any(isinstance(one, Tensor) for one in args[1:]) and "output_size" not in named
    return name == "where" and len(args) == 1 and not named


def _device_of(args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    return next((one for one in [*args, named.get("device")] if isinstance(one, str | torch.device)), None)


def _on_host(tensor: Any) -> Any:
    tensor._on_host = True
    return tensor
