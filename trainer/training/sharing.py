"""Whether the weights of a run are shared out to its processes: where the recipe leaves it open, where one device has no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from trainer.errors import readable_bytes
from trainer.training.memory import predict_memory
from trainer.types import Say

if TYPE_CHECKING:
    from accelerate import Accelerator

    from trainer.models.base import Base
    from trainer.recipe.recipe import Recipe

ROOM = 0.9  # of a device's free memory: libraries and the allocator's fragments take the rest


def with_sharing(recipe: Recipe, base: Base, size: tuple[int, int], accelerator: Accelerator, say: Say) -> Recipe:
    """The recipe with "no" or "full" as its train.shard, on all processes the same. size: of the largest bucket."""
    from accelerate.utils import broadcast_object_list

    processes, chosen = accelerator.num_processes, [str(recipe.train.shard)]
    if processes == 1 and chosen == ["full"]:
        say('train.shard = "full", but this is one process: it has the whole; start more with `accelerate launch`')
    elif chosen == ["auto"]:
        free = least(free_memory(accelerator.device), accelerator)
        if accelerator.is_main_process and processes > 1 and not (recipe.train.unshared or base.uneven):
            chosen = [_chosen(recipe, base, size, processes, free, say)]
        broadcast_object_list(chosen)
    shared = "full" if chosen == ["full"] else "no"
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"shard": shared})})


def _chosen(recipe: Recipe, base: Base, size: tuple[int, int], processes: int, free: int, say: Say) -> str:
    """ "full" where the whole is predicted not to fit, and why."""
    rows = 1 if recipe.train.micro_batch == "auto" else recipe.train.micro_batch
    whole = predict_memory(base, recipe, size, rows).peak
    has = f"an update takes about {readable_bytes(whole)}, and a device has {readable_bytes(free)} free"
    if whole <= ROOM * free:
        say(f'{has}: train.shard is "no", each process has the whole')
        return "no"
    part = predict_memory(base, recipe, size, rows, processes).peak
    say(
        f'{has}: train.shard is "full", shared out to {processes} processes it takes about {readable_bytes(part)} on each'
    )
    return "full"


def free_memory(device: torch.device) -> int:
    """Bytes of a device; of the memory of a machine without a GPU, which its processes have together."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def least(here: int, accelerator: Accelerator) -> int:
    """Of all processes' numbers. On a CPU they have one memory together, and each a share of it."""
    from accelerate.utils import gather_object

    found: int = min(gather_object([here]))
    return found if accelerator.device.type == "cuda" else found // accelerator.num_processes
