"""Weights in bf16, changed in fp32 and rounded at random, so that steps too small for bf16 add up all the same.

bf16 has 8 bits: a step below 1/512 of a weight, as nearly all are at a learning rate of 1e-5, would be lost by rounding to
the nearest. Rounded up with a probability of where it lies between its neighbours, a weight is right on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.training.shards import cut, joined, part, with_state

AT_ONCE = 2**26  # weights that are fp32 at the same time; a kernel's start is then nothing beside its work
LOST = 16  # bits of fp32 that bf16 has not
UPDATES = "updates"  # how many a group of weights has had: which random numbers are next


class RoundedOptimizer(Optimizer):
    """Another optimizer's steps on bf16 weights. It sees fp32 weights and gradients, a part of them at a time.

    Its state is that of the other one, so that its size and its checkpoints are the same. What is rounded up follows from the
    seed, the update and the weights' order: runs, resumed runs and all processes of a run get the same, and so do parts of
    weights that are shared out.
    """

    def __init__(self, make: Callable[[Sequence[Tensor]], Optimizer], weights: Iterable[Tensor], seed: int) -> None:
        self.weights, self.seed = list(weights), seed
        stand_ins = [torch.nn.Parameter(part(weight).new_empty(0, dtype=torch.float32)) for weight in self.weights]
        self.inner = make(stand_ins)
        for group in self.inner.param_groups:
            group[UPDATES] = 0
        super().__init__(self.weights, {})
        self._share()

    def _share(self) -> None:
        """Groups and state are the other one's; the groups hold stand-ins of the weights."""
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group[UPDATES] += 1
            generator = torch.Generator(self.weights[0].device).manual_seed((self.seed << 31) + group[UPDATES])
            stand_ins, weights = group["params"], iter(self.weights)
            try:
                for pairs in _parts(zip(stand_ins, weights)):
                    self._step(group, pairs, generator)
            finally:
                group["params"] = stand_ins

    def _step(self, group: dict[str, Any], pairs: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> None:
        for stand_in, weight in pairs:
            stand_in.data = part(weight).float()
            stand_in.grad = None if weight.grad is None else part(weight.grad).float()
        group["params"] = [stand_in for stand_in, _ in pairs]
        self.inner.step()
        for stand_in, weight in pairs:
            part(weight).copy_(rounded_at_random(stand_in.data, generator, weight))
            stand_in.data, stand_in.grad = stand_in.new_empty(0), None

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Where weights are shared out, so is what has their shape."""

        def one(tensor: Tensor, number: int) -> Tensor:
            weight = self.weights[number]
            return joined(tensor, weight) if tensor.shape == part(weight).shape else tensor

        return with_state(self.inner.state_dict(), one)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(with_state(state_dict, lambda tensor, _: part(tensor)))
        self._share()


def _parts(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The pairs, in order, in lists of about AT_ONCE weights."""
    part: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        part.append(pair)
        if sum(weight.numel() for _, weight in part) >= AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def rounded_at_random(values: Tensor, generator: torch.Generator, of: Tensor | None = None) -> Tensor:
    """fp32 -> bf16: one of the two neighbours, the nearer the likelier; what bf16 can say stays as it is.

    of: the weight of which they are this process's part; it gets what the whole would get there.
    """
    weight = values if of is None else of
    drawn = torch.randint(1 << LOST, weight.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits = values.view(torch.int32) + part(cut(drawn, weight))
    return bits.bitwise_and_(-1 << LOST).view(torch.float32).to(torch.bfloat16)
