"""What takes a second to make and never differs is made once in a process, and copied from then on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import finalize

import torch

_kept: dict[
    str, tuple[Path, torch.Tensor]
] = {}  # what was asked for -> the folder, and torch's generator after it was made


def made_once(make: Callable[..., Path]) -> Callable[..., Path]:
    """A function that makes a folder, its first argument, of what its others say alone: as ever, but for the time it takes.

    torch's generator is afterwards where the making leaves it, so that no test can tell.
    """

    @wraps(make)
    def made(folder: Path, *arguments: Any, **named: Any) -> Path:
        what = repr((make.__name__, arguments, sorted(named.items()), torch.get_default_device()))
        if what not in _kept:
            kept = make(_room(), *arguments, **named)
            _kept[what] = kept, torch.get_rng_state()
        kept, generator = _kept[what]
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        torch.set_rng_state(generator)
        return folder

    return made


def _room() -> Path:
    """A new folder that goes with this process; those that are forked from it leave it alone."""
    folder = Path(tempfile.mkdtemp(prefix="kept-"))
    finalize(made_once, _remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
