"""The device stage: networks look at batches of pictures of one shape, copied to the device once for all of them.

    batches    pictures of one shard and shape
    fill       a batch on its way to the device        in a thread, ahead of the device
    see        what every network sees in it           in the device's own thread
    wait       until that is on the host               in a thread that waits

What is drawn and encoded of it afterwards is `picture.PictureStage.finish`, in threads of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from condprep.annotators.batches import PENDING_BATCHES, REFERENCE_SIDE, by_shape
from condprep.annotators.failures import Sleep, device_faults
from condprep.annotators.memory import Allowance, memory_of_process
from condprep.annotators.protocol import Annotator
from condprep.annotators.runner import Runner
from condprep.annotators.transfer import Upload
from condprep.building.keeping import Turn
from condprep.building.picture import Draft, Item
from condprep.errors import Rejected
from condprep.runtime.retry import pause


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one shape, on the device or on their way there; a reject alone has nothing there."""

    items: list[Item]
    upload: Upload | None


class DeviceStage:
    """The annotators that want batches, each by the column of its map."""

    def __init__(
        self,
        annotators: Mapping[str, Annotator],
        batch_size: int,
        sleep: Sleep = pause,
        memory: int | None = None,
        sharing: int = 1,
    ) -> None:
        """batch_size: pictures of 512 x 512 px in a call; more of smaller ones, fewer of larger ones. sleep: of retries.

        memory: bytes that a network may take for pictures, of the plan. sharing: processes that share the CPU's memory."""
        networks = {column: annotator for column, annotator in annotators.items() if annotator.batch_size > 1}
        here = {device: memory_of_process(device, sharing) for device in {one.device for one in networks.values()}}
        self.networks = {
            column: Runner(one, sleep, Allowance(one, memory, here[one.device])) for column, one in networks.items()
        }
        self.batch_size = batch_size

    @property
    def pending(self) -> int:
        """Bytes that pictures which wait for others of their shape, and what follows them, hold at most."""
        together = PENDING_BATCHES * self.batch_size * bool(self.networks)
        return together * (1 + len(self.networks)) * 3 * REFERENCE_SIDE**2

    def batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Pictures of one shard and shape, whatever their timing; rejects go alone."""
        for _, of_shard in groupby(items, lambda item: item[0].shard):
            yield from self._of_shard(of_shard)

    def _of_shard(self, items: Iterator[Item]) -> Iterator[list[Item]]:
        """The same, with what `Turn` knows of each."""
        last, came = Turn(), 0

        def coming() -> Iterator[Item]:
            nonlocal last, came
            for item in items:
                last, before = item[0].turn, came
                came += _weight(item)
                last.before, last.after = before, came
                yield item

        for batch in by_shape(coming(), _pixels, self.batch_size, _weight, self.pending):
            for input, _ in batch:
                input.turn.settled = last.place
            yield batch

    def fill(self, items: list[Item]) -> Batch:
        """Bring the pictures of a batch together, on their way to the device. Their own pixels are not needed any more."""
        pictures = [pixels for item in items if (pixels := _pixels(item)) is not None]
        with device_faults(self._device()):
            upload = Upload(pictures, self._device()) if pictures else None
        for _, state in items:
            if isinstance(state, Draft):
                state.rgb = GONE
        return Batch(items, upload)

    def see(self, batch: Batch) -> list[Item]:
        """Run every network on a batch; a picture on which one of them fails becomes a reject. To be used by one thread."""
        if batch.upload is None:
            return batch.items
        rgb = batch.upload.batch()
        drafts = [(i, state) for i, (_, state) in enumerate(batch.items) if isinstance(state, Draft)]
        items, keys = list(batch.items), [draft.key for _, draft in drafts]
        for column, runner in self.networks.items():
            for (i, draft), seen in zip(drafts, runner.see(rgb, keys)):
                if isinstance(seen, Rejected):
                    items[i] = (items[i][0], draft.lose(items[i][0], column, seen))
                else:
                    draft.undrawn[column] = (runner, seen)
        return items

    def wait(self, items: list[Item]) -> list[Item]:
        """The same, when what the networks saw is on the host. Raises what went wrong on the device."""
        for _, state in items:
            if isinstance(state, Draft):
                for runner, undrawn in state.undrawn.values():
                    with device_faults(runner.annotator.name):
                        undrawn.wait()
        return items

    @property
    def on_cpu(self) -> bool:
        """Whether a network computes on the CPU, with torch's threads there."""
        return any(runner.annotator.device == "cpu" for runner in self.networks.values())

    def _device(self) -> str:
        return next(iter(self.networks.values())).annotator.device


def held(item: Item) -> int:
    """Bytes that an input holds until it is written, at most."""
    state = item[1]
    return state.held if isinstance(state, Draft) else REJECT


def _weight(item: Item) -> int:
    """Bytes that count as having come with it."""
    again = item[0].turn.again
    return held(item) if again is None else again


REJECT = 1000  # bytes, about
GONE = np.empty((0, 0, 3), np.uint8)


def _pixels(item: Item) -> np.ndarray | None:
    return item[1].rgb if isinstance(item[1], Draft) else None
