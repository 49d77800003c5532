"""Weights that are shared out: each process keeps a part of every one, and a block is whole only while it computes (FSDP2).

`torch.distributed.fsdp.fully_shard` replaces a network's parameters by `DTensor`s, cut along their first axis (Zhao et al., 2023;
Rajbhandari et al., 2020). What has to be whole, in a file or in a validation, is gathered one tensor after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.models.parts import another_of, buffers

if TYPE_CHECKING:
    from accelerate import Accelerator

# beside the blocks that diffusers names as repeated: SD's, SD 3's, those of Z-Image's ControlNet
REPEATED = ("ResnetBlock2D", "JointTransformerBlock", "ZImageControlTransformerBlock")

Network = TypeVar("Network", bound=nn.Module)


def block_names(denoiser: Any) -> set[str]:
    """The classes of blocks that a denoiser, and a ControlNet of it, repeats."""
    return {*(denoiser._repeated_blocks or ()), *REPEATED}


def blocks(network: nn.Module, names: set[str]) -> list[nn.Module]:
    """Those of these classes."""
    return [module for module in network.modules() if type(module).__name__ in names]


def parameters_of(network: nn.Module, parts: Collection[str]) -> set[nn.Parameter]:
    """Those of its own parts of these names."""
    return {weight for name, weight in network.named_parameters() if name.partition(".")[0] in parts}


def shard(
    network: nn.Module,
    names: set[str],
    accelerator: Accelerator,
    computing: torch.dtype | None = None,
    lent: Collection[str] = (),
) -> None:
    """Share a network out to all processes, in place: each of its blocks, and the rest; onto their devices, block by block.

    computing: in which weights are gathered, None for their own. Gradients are averaged in float32, and what goes in is not
    cast: a timestep in bf16 would be another one. lent: its own parts that stay whole, since another network calls them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(param_dtype=computing, reduce_dtype=torch.float32, cast_forward_inputs=False)
    stay = parameters_of(network, lent)
    for block in blocks(network, names):
        if stay.isdisjoint(block.parameters()):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    left: dict[str, Any] = {"ignored_params": stay} if stay else {}  # which PyTorch 2.6 does not know
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True, **left)


def outline(network: Network) -> Network:
    """The same without its parameters, which are shapes alone: what a file of it says beside them."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        empty: Network = another_of(network)
    for name, tensor in buffers(network).items():
        module, _, key = name.rpartition(".")
        empty.get_submodule(module)._buffers[key] = tensor
    return empty


def part(tensor: Tensor) -> Tensor:
    """What this process keeps of a tensor, without a copy; of one that is not shared out, itself."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """Shared out as another tensor of its shape is; every process has the whole."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def joined(mine: Tensor, like: Tensor) -> Tensor:
    """Every process's part, as one tensor that is shared out as another one of its shape."""
    if not isinstance(like, DTensor):
        return mine
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(mine, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)


def whole(tensor: Tensor) -> Tensor:
    """Gathered, on all processes, which have to come here together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def kept(wholes: Iterable[Tensor], here: bool) -> list[Tensor]:
    """Copies of tensors that are gathered one after the other, in the CPU's memory, on the process that wants them."""
    if here:
        return [tensor.detach().to("cpu", copy=True) for tensor in wholes]
    for _ in wholes:  # each is gathered, and forgotten
        pass
    return []


def whole_state(state: dict[str, Any], here: bool) -> dict[str, Any]:
    """An optimizer's state_dict, gathered: a copy in the CPU's memory on the process that wants it."""

    def one(tensor: Tensor, _: int) -> Tensor:
        gathered = whole(tensor)
        return gathered.to("cpu", copy=True) if here else tensor

    return with_state(state, one)


def cut_state(state: dict[str, Any], weights: Sequence[Tensor]) -> dict[str, Any]:
    """The other way; weights: of the optimizer, in its order. What does not have the shape of its weight belongs to all."""

    def one(tensor: Tensor, number: int) -> Tensor:
        return cut(tensor, weights[number]) if tensor.shape == weights[number].shape else tensor

    return with_state(state, one)


def with_state(state: dict[str, Any], change: Callable[[Tensor, int], Tensor]) -> dict[str, Any]:
    """An optimizer's state_dict with every tensor changed, which is told with the number of its weight."""
    changed = {
        number: {name: change(value, number) if isinstance(value, Tensor) else value for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": changed}


def gathered(network: nn.Module, names: set[str], stay: Collection[nn.Parameter] = ()) -> int:
    """The most weights of a network that are made whole at once: two blocks, one of them ahead, and what is in none. stay: are
    whole anyway, and do not count."""
    sizes = {weight: 0 if weight in stay else weight.numel() for weight in network.parameters()}
    found = sorted(sum(sizes[weight] for weight in block.parameters()) for block in blocks(network, names))
    rest = sum(sizes.values()) - sum(found)
    return rest + sum(found[-2:])
