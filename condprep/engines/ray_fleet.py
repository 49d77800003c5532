"""Shard jobs in a Ray cluster: actors are given numbers of shards, and what one of them dies with is done again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from condprep.dataset.shards import Counts
from condprep.engines.local import GivenUp
from condprep.engines.processes import TRIES
from condprep.engines.ray_connect import Size
from condprep.engines.ray_node import Job, Look, Node
from condprep.errors import BuildFailed, CondprepError, ShardFault, UsageError

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks at how far everybody is
CALLS = 50  # such looks a second at most, at however many actors
LOOK_AGAIN = 10.0  # seconds between two looks at which nodes there are
WAIT = 30.0  # seconds without any actor, until that is said


@dataclass(eq=False)
class Worker:
    """An actor, and what it has been given."""

    number: int
    actor: Any
    look: Look | None = None
    room: bool = False  # for another shard
    shards: set[int] = field(default_factory=set)  # not committed yet
    committed: tuple[int, int] = (0, 0)  # inputs and rejects of its shards that are
    done: tuple[int, int] = (0, 0)  # inputs and rejects of all its shards, when it was last asked
    asked: float = 0.0  # when that was

    @property
    def host(self) -> str:
        return self.look.host if self.look else "a node of the cluster"

    @property
    def under_way(self) -> tuple[int, int]:
        return max(0, self.done[0] - self.committed[0]), max(0, self.done[1] - self.committed[1])


@dataclass(frozen=True)
class Call:
    """What an actor was asked."""

    worker: Worker
    then: Callable[[Worker, Any], None]  # is told the answer
    shard: int | None = None


class Fleet:
    """The actors of a build. They end with the block; what they have not committed by then is forgotten."""

    def __init__(self, ray: Any, job: Job, name: str, size: Size) -> None:
        """ray: the module, connected. name: what they are called in its dashboard."""
        self._ray, self._job, self._name, self._size = ray, job, name, size
        self._total, self._given_up, self._left = Counts(), GivenUp(), 0
        self._waiting: deque[int] = deque()
        self._workers: dict[Worker, None] = {}
        self._calls: dict[Any, Call] = {}
        self._hired = self._deaths = self._until = 0
        self._looked, self._wanted, self._together = float("-inf"), 1, 1
        self._first: tuple[str, Any] | None = None  # a host, and what it has loaded; others load the same
        self._begun: Sequence[Mapping[str, Any]] | None = None
        self._since = time.monotonic()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._end(worker)

    def open(self, begun: Sequence[Mapping[str, Any]] | None) -> Any:
        """What the first node has loaded, as it says itself. begun: as `Job.open` takes it. Raises what a node raises."""
        self._begun = begun
        while self._first is None:
            self._hire(min(1, self._room()))
            self._listen()
        return self._first[1]

    def build_shards(
        self, shards: Sequence[int], progress: Callable[[int, int], None], settled: Sequence[Mapping[str, Any]]
    ) -> Counts:
        """Build these shards. progress: is called with how many inputs are done, and how many of them are rejects.

        settled: the annotators' descriptions, which those who come later load. Raises what an actor raises, with the name of
        its host, and BuildFailed where actors die again and again.
        """
        self._waiting, self._left, self._begun = deque(shards), len(shards), settled
        for worker in self._workers:
            self._ask_for_room(worker)
        while self._left:
            self._hire(min(self._room(), self._left))
            self._hand_out()
            self._ask_how_far()
            self._listen()
            progress(*self._done())
        self._given_up.check()
        return self._total

    def _room(self) -> int:
        """How many actors there may be, with the nodes that there are by now."""
        if time.monotonic() - self._looked > LOOK_AGAIN:
            nodes = self._ray.nodes()
            self._wanted, self._together = self._size.wanted(nodes), self._size.together(nodes)
            self._looked = time.monotonic()
        return self._wanted

    def _hire(self, most: int) -> None:
        while len(self._workers) < most:
            self._hired += 1
            name = f"{self._name} {self._hired}"
            options = {"num_cpus": self._size.cores, "num_gpus": int(self._size.gpu)}
            actor = self._ray.remote(Node).options(name=name, max_restarts=0, **options)
            worker = Worker(self._hired, actor.remote(name, self._size.cores, self._together))
            self._workers[worker] = None
            self._calls[worker.actor.look.remote()] = Call(worker, self._seen)

    def _hand_out(self) -> None:
        """Shards to those who have room, the fewest first; where there are none, those who wait for more go on without."""
        for worker in sorted((worker for worker in self._workers if worker.room), key=lambda one: len(one.shards)):
            if self._waiting:
                shard = self._waiting.popleft()
                worker.shards.add(shard)
                task = worker.actor.build.options(name=f"shard {shard}").remote(shard)
                self._calls[task] = Call(worker, partial(self._built, shard), shard)
            elif worker.shards:
                worker.actor.end.remote()
            else:
                continue
            self._ask_for_room(worker)

    def _ask_for_room(self, worker: Worker) -> None:
        worker.room = False
        self._calls[worker.actor.room.remote()] = Call(worker, self._has_room)

    def _ask_how_far(self) -> None:
        """Now and then."""
        now, pause = time.monotonic(), max(TICK, len(self._workers) / CALLS)
        for worker in self._workers:
            if worker.shards and now - worker.asked > pause:
                worker.asked = float("inf")
                self._calls[worker.actor.done.remote()] = Call(worker, self._told)

    def _listen(self) -> None:
        """Hear what there is to hear, and wait a moment where there is nothing."""
        ready, rest = self._ray.wait(list(self._calls), timeout=TICK)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for reference in ready:
            if reference in self._calls:  # else its actor has died meanwhile
                self._hear(reference)
        if any(worker.look for worker in self._workers):
            self._since = time.monotonic()
        elif time.monotonic() - self._since > WAIT:
            logger.warning("waiting for a node of the Ray cluster that has %s free", self._size)
            self._since = time.monotonic()

    def _hear(self, reference: Any) -> None:
        call = self._calls.pop(reference)
        raised = self._ray.exceptions
        try:
            value = self._ray.get(reference)
        except raised.RayTaskError as error:
            self._raised(call, error.cause)
        except raised.RayError as error:
            self._died(call.worker, error)
        else:
            call.then(call.worker, value)

    def _seen(self, worker: Worker, look: Look) -> None:
        here, worker.look = Look.here(), look
        for name, version in here.versions.items():
            if look.versions.get(name) != version:
                raise UsageError(
                    f"{look.host} has {name} {look.versions.get(name)}, and {here.host}, where the build was begun, "
                    f"{name} {version}: install one version on all nodes"
                )
        self._calls[worker.actor.open.remote(self._job, self._begun)] = Call(worker, self._opened)

    def _opened(self, worker: Worker, report: Any) -> None:
        if self._first is None:
            self._first = worker.host, report
        elif differing := self._first[1].differences(report):
            raise UsageError(
                f"{worker.host} differs from {self._first[0]} in what changes pixels ({'; '.join(differing)}): a dataset is "
                "made by one of each; install the same on all nodes, or take nodes that are alike"
            )
        if self._left:  # else it waits until there are shards
            self._ask_for_room(worker)

    def _has_room(self, worker: Worker, _: None) -> None:
        worker.room = True

    def _told(self, worker: Worker, done: tuple[int, int]) -> None:
        worker.done, worker.asked = done, time.monotonic()

    def _built(self, shard: int, worker: Worker, counts: Counts) -> None:
        worker.shards.remove(shard)
        inputs, rejects = worker.committed
        worker.committed = inputs + counts.inputs, rejects + counts.rejects.total()
        self._total.merge(counts)
        self._left, self._deaths, self._given_up.in_a_row = self._left - 1, 0, 0

    def _raised(self, call: Call, error: BaseException) -> None:
        """A shard that is given up is borne, as by the other engines; whatever else an actor raises ends the build."""
        if call.shard is None or not isinstance(error, ShardFault):
            raise _on(call.worker.host, error)
        call.worker.shards.remove(call.shard)
        self._left -= 1
        if self._given_up.add(call.shard, _on(call.worker.host, error)):
            self._given_up.check()

    def _died(self, worker: Worker, error: BaseException) -> None:
        """Its process or its node is gone, or out of reach. The shards that it had are for others.

        Those that are hired before a death is noticed may die of the same, as all on a node do: that counts once.
        """
        self._end(worker)  # where it is out of reach alone
        del self._workers[worker]
        self._calls = {reference: call for reference, call in self._calls.items() if call.worker is not worker}
        shards = sorted(worker.shards)
        self._waiting.extendleft(reversed(shards))
        if worker.number > self._until:
            self._deaths, self._until = self._deaths + 1, self._hired
        why = str(error).strip().splitlines()[-1].partition(". Some common causes")[0]
        over = f"over shards {', '.join(map(str, shards))}" if shards else "without a shard in its hands"
        if self._deaths >= TRIES:
            raise BuildFailed(
                f"{TRIES} actors died one after the other, the last one on {worker.host} {over} ({why}); where memory is short, "
                "give each more of it: fewer --actors, or a smaller --batch-size; the same command goes on"
            )
        again = ", which others do again" if shards else ""
        logger.warning("%s: an actor is lost %s%s (%s)", worker.host, over, again, why)

    def _done(self) -> tuple[int, int]:
        parts = [worker.under_way for worker in self._workers]
        return (
            self._total.inputs + sum(inputs for inputs, _ in parts),
            self._total.rejects.total() + sum(rejects for _, rejects in parts),
        )

    def _end(self, worker: Worker) -> None:
        with suppress(Exception):  # it is gone, or the connection is
            self._ray.kill(worker.actor, no_restart=True)


def _on(host: str, error: Any) -> Any:
    """The error with the name of the host where it arose, as a message of ours or as the path of a file there."""
    if isinstance(error, CondprepError):
        error.args = (f"{host}: {error}", *error.args[1:])
    elif isinstance(error, OSError) and error.filename:
        error.filename = f"{host}:{error.filename}"
    elif not isinstance(error, Exception):
        return BuildFailed(f"{host}: {type(error).__name__}: {error}")
    return error
