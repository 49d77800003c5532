"""What the next update depends on, but the rows: taken as it is, copied, written, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from trainer.errors import CheckpointError, first_line
from trainer.inference.export import save_controlnet
from trainer.recipe.layout import EMA, RAW, WEIGHTS

if TYPE_CHECKING:
    from diffusers import ControlNetModel

OPTIMIZER, SCALER = "optimizer.bin", "scaler.pt"  # in a checkpoint


@dataclass(frozen=True)
class LearnerState:
    """Of one process, which is that of all: they have learned the same. Nothing random belongs to a process.

    Where weights are shared out, it is that of all of them together, and so the same.
    """

    controlnet: ControlNetModel  # of which the configuration is taken
    weights: Sequence[Tensor]  # in the parameters' order
    optimizer: Mapping[str, Any]  # as its state_dict says
    average: Sequence[Tensor]  # empty where there is none
    scaler: Mapping[str, Any]  # of fp16; empty else
    own: bool = False  # a copy already

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = tree_leaves((list(self.weights), dict(self.optimizer), list(self.average)))
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def copied(self) -> LearnerState:
        """In the CPU's memory, of which no update changes anything."""
        if self.own:
            return self
        weights, optimizer, average, scaler = tree_map(
            _copied, (list(self.weights), dict(self.optimizer), list(self.average), dict(self.scaler))
        )
        return replace(self, weights=weights, optimizer=optimizer, average=average, scaler=scaler, own=True)

    def write(self, folder: Path) -> None:
        """ControlNet and average as folders of diffusers, whatever wraps them: one process can go on where several stopped."""
        save_controlnet(folder / RAW, self.controlnet, self.weights)
        torch.save(self.optimizer, folder / OPTIMIZER)
        if self.scaler:
            torch.save(self.scaler, folder / SCALER)
        if self.average:
            save_controlnet(folder / EMA, self.controlnet, self.average)


def read_state(folder: Path, controlnet: ControlNetModel) -> LearnerState:
    """What `write` has written, on the CPU. controlnet: whose weights and parameters' order it has. Raises CheckpointError."""
    if not (folder / RAW).exists():
        raise CheckpointError(f"{folder} was written by an earlier version of the trainer; go on with that one")
    try:
        weights = _in_order(folder / RAW, controlnet)
        average = _in_order(folder / EMA, controlnet) if (folder / EMA).exists() else []
        scaler = _loaded(folder / SCALER) if (folder / SCALER).exists() else {}
        return LearnerState(controlnet, weights, _loaded(folder / OPTIMIZER), average, scaler)
    except Exception as error:  # what is no checkpoint of ours makes the readers raise almost anything
        raise CheckpointError(
            f"checkpoint {folder} cannot be read ({first_line(error)}); take another, or start afresh in another save.dir"
        ) from error


def _in_order(folder: Path, controlnet: ControlNetModel) -> list[Tensor]:
    """The weights in a folder of diffusers, in the parameters' order."""
    from safetensors.torch import load_file

    stored = load_file(folder / WEIGHTS)
    return [stored[name] for name, _ in controlnet.named_parameters()]


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded
