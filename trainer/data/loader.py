"""From rows to batches: what the loop iterates over, on every process, from any point on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from condprep.images.geometry import Size
from condprep.runtime.concurrency import ordered_map
from trainer.data.sampler import SampledRow, share, updates
from trainer.data.split import Split
from trainer.models.loss import draw_for_training
from trainer.types import ONE_PROCESS, Batch, ProcessGroup


class Loader:
    """Endless batches of this process, `passes` of them for each update.

    The state counts the updates whose batches have all been handed out; what threads have prepared ahead is not in it.
    """

    def __init__(self, split: Split, micro_batch: int, group: ProcessGroup = ONE_PROCESS, pin: bool = False) -> None:
        """micro_batch: pictures of a batch; times the processes it divides train.batch. pin: into page-locked memory."""
        self.split, self.micro_batch, self.group, self.pin = split, micro_batch, group, pin
        self.updates = 0

    @property
    def passes(self) -> int:
        """Batches of this process in an update."""
        return self.split.recipe.train.batch // (self.micro_batch * self.group.size)

    def __iter__(self) -> Generator[Batch, None, None]:
        workers = self.split.recipe.data.num_workers
        if not workers:
            yield from self._counted(map(self._read, self._sampled()))
            return
        with ThreadPoolExecutor(workers) as pool:
            yield from self._counted(ordered_map(pool, self._read, self._sampled(), ahead=2 * workers))

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """To be called before iterating."""
        self.updates = state["updates"]

    def _sampled(self) -> Iterator[Sequence[SampledRow]]:
        recipe = self.split.recipe
        for update in islice(updates(self.split.buckets, recipe.train.batch, recipe.train.seed), self.updates, None):
            yield from share(update, self.micro_batch, self.group.rank, self.group.size)

    def _read(self, sampled: Sequence[SampledRow]) -> Batch:
        """Rows and what is random about them: a millisecond an update, which a thread has and the loop has not."""
        base, batch = self.split.base, self.split.batch(sampled)
        assert base is not None
        height, width = batch.conditions.shape[2:]
        shape = (len(batch), *base.latent_shape((height, width)))
        drawn = replace(batch, draws=draw_for_training(batch, self.split.recipe.train, base.objective, shape))
        return drawn.pinned() if self.pin else drawn

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches, 1):
            if number % self.passes == 0:
                self.updates += 1
            yield batch


def held_out_batches(split: Split, micro_batch: int, group: ProcessGroup = ONE_PROCESS) -> Iterator[Batch]:
    """The first `eval.loss_rows` rows of this process's share, the same each time: one bucket a batch, without chance."""
    by_size: dict[Size, list[SampledRow]] = {}
    for row, size in enumerate(split.buckets[: split.recipe.eval.loss_rows]):
        by_size.setdefault(size, []).append(SampledRow(row, 0))
    batches = [
        sampled[start : start + micro_batch]
        for sampled in by_size.values()
        for start in range(0, len(sampled), micro_batch)
    ]
    return map(split.batch, batches[group.rank :: group.size])
