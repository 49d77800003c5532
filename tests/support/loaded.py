"""A small network that was read from a folder is read from there once in a process; who reads it again gets a copy of its own.

diffusers and transformers make a network of random weights, and look at each of its tensors several times, before its file's are in
it: thirty milliseconds, of which a copy takes three.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from trainer.models import parts

LARGEST = 8 << 20  # bytes of a folder: what is larger is read, as ever
KEPT = 64  # networks

_kept: OrderedDict[str, tuple[bytes, list[Any]]] = OrderedDict()  # what was read -> all but its tensors, and these


def read_once() -> None:
    """From now on, by the trainer: the same class from files of the same content, wherever they lie."""
    parts._whole = _copied(parts._whole)


def _copied(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    def whole(kind: Any, name: str, **which: Any) -> Any:
        if not (what := _what(kind, name, which)):
            return read(kind, name, **which)
        if what not in _kept:
            network = read(kind, name, **which)  # and what it raises is raised again the next time
            _kept[what] = _taken_apart(network, name)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
            return network
        _kept.move_to_end(what)
        return _put_together(*_kept[what], name)

    return whole


def _what(kind: Any, name: str, which: dict[str, Any]) -> str:
    """All that the network depends on; "" for what is not a small folder."""
    import torch

    folder = Path(name, which.get("subfolder") or "")
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files or sum(path.stat().st_size for path in files) > LARGEST:
        return ""
    said = repr(
        (
            kind,
            kind.from_pretrained,
            sorted(which.items(), key=str),
            torch.get_default_device(),
            torch.get_default_dtype(),
        )
    )
    digest = hashlib.sha256(said.encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _taken_apart(network: Any, name: str) -> tuple[bytes, list[Any]]:
    """name: where it was read, which it remembers, and a copy shall not."""
    import torch

    tensors: list[Any] = []
    numbers: dict[int, int] = {}

    class Without(pickle.Pickler):
        def persistent_id(self, one: Any) -> Any:
            if isinstance(one, torch.Tensor):
                if id(one) not in numbers:  # which some share
                    numbers[id(one)] = len(tensors)
                    tensors.append(one)
                return numbers[id(one)]
            return "name" if isinstance(one, str) and one == name else None

    Without(file := io.BytesIO(), protocol=5).dump(network)
    return file.getvalue(), [_like(tensor) for tensor in tensors]


def _put_together(rest: bytes, tensors: list[Any], name: str) -> Any:
    copies = [_like(tensor) for tensor in tensors]

    class With(pickle.Unpickler):
        def persistent_load(self, which: Any) -> Any:
            return name if which == "name" else copies[which]

    return With(io.BytesIO(rest)).load()


def _like(tensor: Any) -> Any:
    """A tensor, or parameter, with the same values."""
    import torch

    copy = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        copy = torch.nn.Parameter(copy, tensor.requires_grad)
    vars(copy).update(vars(tensor))
    return copy
