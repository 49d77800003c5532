"""The bf16 weights that an update computes with, so that fp32 ones are not cast again in every pass.

Autocast casts a weight where it meets a convolution or a linear layer: 1.4 GB of them for a ControlNet of SD 1.5, a kernel
for each, in every forward pass. Here it is done once an update, for all at once. Values, gradients and sums of gradients are
autocast's own, bit for bit: the same roundings in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.training.shards import outline

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from trainer.recipe.recipe import Train

CAST = (nn.Linear, nn.Conv2d, nn.Conv1d)  # layers whose weights autocast narrows; all others stay as they are


class WorkingCopy:
    """Another ControlNet whose convolutions and linear layers have bf16 weights, and whose other weights are the first one's.

    What its backward pass finds is added to the gradients of the fp32 weights, in fp32, as soon as it is known.
    """

    def __init__(self, controlnet: ControlNetModel, model: ControlNetModel | None = None) -> None:
        """model: another of its kind, all whose weights are replaced (default: one without any)."""
        self.model = model or outline(controlnet)
        self._wide: list[Tensor] = []
        self._narrow: list[Tensor] = []
        theirs = dict(controlnet.named_modules())
        for name, module in self.model.named_modules():
            module._buffers.update(theirs[name]._buffers)
            for key, weight in theirs[name]._parameters.items():
                module._parameters[key] = self._copied(weight) if weight is not None and is_cast(module) else weight
        self.model.train(controlnet.training)

    def _copied(self, weight: nn.Parameter) -> nn.Parameter:
        narrow = nn.Parameter(weight.detach().to(torch.bfloat16))
        narrow.register_post_accumulate_grad_hook(_gives_its_gradient_to(weight))  # type: ignore[no-untyped-call]
        self._wide.append(weight)
        self._narrow.append(narrow)
        return narrow

    @property
    def nbytes(self) -> int:
        """Of the weights that are copies."""
        return sum(weight.nbytes for weight in self._narrow)

    @torch.no_grad()
    def refresh(self) -> None:
        """Have the weights of now."""
        torch._foreach_copy_(self._narrow, self._wide)


def is_wanted(train: Train, processes: int) -> bool:
    """Whether an update computes with one.

    Several processes add up fp32 gradients while the backward pass goes on, which needs the fp32 weights in it. Where memory
    is short, as checkpointing says, autocast is the smaller: it forgets its copy of a block with the block's activations.
    """
    narrow = train.precision == "bf16" and train.weights == "fp32"
    return narrow and processes == 1 and not train.gradient_checkpointing


def is_cast(module: nn.Module) -> bool:
    """Whether autocast narrows the weights of a layer."""
    return isinstance(module, CAST)


def _gives_its_gradient_to(weight: nn.Parameter) -> Callable[[Tensor], None]:
    def give(narrow: Tensor) -> None:
        assert narrow.grad is not None
        if weight.grad is None:
            weight.grad = narrow.grad.to(weight.dtype)
        else:
            weight.grad += narrow.grad
        narrow.grad = None

    return give
