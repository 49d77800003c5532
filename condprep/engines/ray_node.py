"""What runs on a node of a Ray cluster: an actor that loads once what a build needs, and builds the shards it is given.

Nothing but what to load, numbers of shards and their counts travels. Only this module is imported on a node before it
has said which versions it has.
"""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from condprep import __version__
from condprep.dataset.shards import Counts
from condprep.engines import local
from condprep.errors import ShardFault


@dataclass(frozen=True)
class Look:
    """What a node says of itself before anything is asked of it."""

    host: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls) -> Look:
        python = ".".join(platform.python_version_tuple()[:2])
        return cls(socket.gethostname(), {"condprep": __version__, "Python": python})


class Opened(Protocol):
    """What a job has loaded on a node."""

    @property
    def report(self) -> Any:
        """What the driver is told of it: picklable, with a method `differences` that takes another one."""
        ...

    def builder(self, told: Callable[[int, int], None], actors: int) -> local.Builder[Any]:
        """told: as in `engines.processes`. actors: that may share this node's memory."""
        ...


class Job(Protocol):
    """Loads what a build needs, on a node. Small and picklable."""

    def open(self, begun: Sequence[Mapping[str, Any]] | None) -> Opened:
        """begun: the annotators' descriptions where they are settled. Raises CondprepError for what this node lacks."""
        ...


class Node:
    """The actor. It asks for a shard whenever its feeding stage has room for more, as a process of `engines.processes` does.

    Calls wait for what threads do, and not for each other.
    """

    def __init__(self, name: str, threads: int, actors: int) -> None:
        """name: shown in Ray's dashboard. actors: that may share this node's memory."""
        self._name, self._threads, self._actors = name, threads, actors
        self._room: SimpleQueue[BaseException | None] = SimpleQueue()  # for a shard, or why there is none
        self._given: SimpleQueue[int | None] = SimpleQueue()
        self._asked: dict[int, Future[Counts]] = {}  # shards that are not committed yet
        self._inputs = self._rejects = 0
        self._opened: Opened | None = None
        self._serving: Thread | None = None

    def __repr__(self) -> str:
        return self._name

    def look(self) -> Look:
        return Look.here()

    async def open(self, job: Job, begun: Sequence[Mapping[str, Any]] | None) -> Any:
        """Load, and say what."""
        self._opened = await asyncio.to_thread(job.open, begun)
        return self._opened.report

    async def room(self) -> None:
        """Returns when there is room for another shard; it is to be given one, or told that there is none. Raises what it dies of.

        The plan is written when it is called first.
        """
        if not self._serving:
            self._serving = Thread(target=self._serve, args=(self._opened,), daemon=True)
            self._serving.start()
        if error := await asyncio.to_thread(self._room.get):
            raise error

    async def build(self, shard: int) -> Counts:
        """Returns when it is committed. Raises ShardFault where it is given up, and whatever else ends the work of this actor."""
        future = self._asked[shard] = Future()
        self._given.put(shard)
        return await asyncio.wrap_future(future)

    def end(self) -> None:
        """There is no shard for now: what waits for more pictures, a batch for one, goes on without."""
        self._given.put(None)

    def done(self) -> tuple[int, int]:
        """How many inputs there were since it began, and how many rejects of them, of shards under way too."""
        return self._inputs, self._rejects

    def _serve(self, opened: Opened) -> None:
        """Shards as one stream, in which the pictures of the next are under way while one is committed, and then another stream."""
        try:
            while True:
                builder = opened.builder(self._told, self._actors)
                local.build_shards(builder, self._shards(), self._threads, self._built, _Told(self._fault))
        except BaseException as error:
            for future in list(self._asked.values()):
                future.set_exception(error)
            self._room.put(error)

    def _shards(self) -> Iterator[int]:
        """As they are given; to be taken by one thread."""
        self._room.put(None)
        while (shard := self._given.get()) is not None:
            yield shard
            self._room.put(None)

    def _told(self, inputs: int, rejects: int) -> None:
        self._inputs, self._rejects = self._inputs + inputs, self._rejects + rejects

    def _built(self, shard: int, counts: Counts) -> None:
        self._asked.pop(shard).set_result(counts)

    def _fault(self, shard: int, fault: ShardFault) -> None:
        self._asked.pop(shard).set_exception(fault)


class _Told(local.GivenUp):
    """Shards that are given up are told to the driver, who sees those of all nodes and decides."""

    def __init__(self, tell: Callable[[int, ShardFault], None]) -> None:
        super().__init__()
        self._tell = tell

    def add(self, shard: int, fault: ShardFault) -> bool:
        self._tell(shard, fault)
        return False
