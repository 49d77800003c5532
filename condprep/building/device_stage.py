"""The device stage: networks look at batches of pictures of one shape, copied to the device once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np

from condprep.annotators.batches import as_batch, by_shape, to_device
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Runner
from condprep.building.picture import Draft, Item
from condprep.errors import Rejected


class DeviceStage:
    """The annotators that want batches, each by the column of its map. To be used by one thread."""

    def __init__(self, annotators: Mapping[str, Annotator], batch_size: int) -> None:
        """batch_size: pictures of 512 x 512 px in a call; more of smaller ones, fewer of larger ones."""
        self.networks = {column: Runner(a) for column, a in annotators.items() if a.batch_size > 1}
        self.batch_size = batch_size

    def batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Pictures of one shard and shape, whatever their timing; rejects go alone."""
        for _, of_shard in groupby(items, lambda item: item[0].shard):
            yield from by_shape(of_shard, _pixels, self.batch_size)

    def annotate(self, batch: list[Item]) -> list[Item]:
        """Run every network on the pictures of a batch; one on which one of them fails becomes a reject."""
        drafts = [draft for _, draft in batch if isinstance(draft, Draft)]
        if not drafts:
            return batch
        keys = [draft.key for draft in drafts]
        rgb = to_device(as_batch([draft.rgb for draft in drafts]), self._device())
        failed: dict[int, Rejected] = {}
        for column, runner in self.networks.items():
            for i, result in enumerate(runner(rgb, keys)):
                if isinstance(result, Rejected):
                    failed[i] = result
                else:
                    drafts[i].take(column, runner.annotator, result)
        return [
            (input, input.reject(failed[i], keys[i])) if i in failed else (input, state)
            for i, (input, state) in enumerate(batch)
        ]

    def _device(self) -> str:
        return next(iter(self.networks.values())).annotator.device


def _pixels(item: Item) -> np.ndarray | None:
    return item[1].rgb if isinstance(item[1], Draft) else None
