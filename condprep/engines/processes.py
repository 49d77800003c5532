"""Shard jobs in a process for each device: each asks for a shard as it needs one; what a process dies with is done again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Lock, Thread
from typing import Any, Protocol

from condprep.dataset.shards import Counts
from condprep.engines import local
from condprep.errors import BuildFailed

TRIES = 3  # processes that may die one after the other without a shard between them: then it is not chance
SECONDS = 0.2  # between two messages of how far a process is
PATIENCE = 30  # seconds that a process has to end by itself


class Job(Protocol):
    """Opens a builder in another process. Picklable."""

    def __call__(self, device: str, told: Callable[[int, int], None], processes: int) -> local.Builder[Any]:
        """told: is to be called with how many inputs and how many rejects of them there were since it was last called."""
        ...


@dataclass
class Worker:
    """A process with a device, and what it has been given."""

    device: str
    process: SpawnProcess
    connection: Connection
    shards: list[int] = field(default_factory=list)  # not committed yet
    inputs: int = 0  # of these shards, that it has done
    rejects: int = 0


def build_shards(
    job: Job, shards: Sequence[int], devices: Sequence[str], workers: int, progress: Callable[[int, int], None]
) -> Counts:
    """Build these shards with a process for each of the devices, and `workers` threads in all of them together.

    progress: is called with how many inputs are done, and how many of them are rejects. Raises what a process raises, and
    BuildFailed where a shard's process dies again and again; then, and at Ctrl-C, all of them end.
    """
    pool = _Pool(job, deque(shards), devices, max(1, workers // len(devices)))
    try:
        while pool.left:
            pool.start()
            pool.listen()
            progress(*pool.done())
    finally:
        pool.end()
    return pool.total


class _Pool:
    def __init__(self, job: Job, waiting: deque[int], devices: Sequence[str], threads: int) -> None:
        self.total, self.left = Counts(), len(waiting)
        self._job, self._waiting, self._threads = job, waiting, threads
        self._idle, self._processes = deque(devices), len(devices)
        self._workers: dict[Connection, Worker] = {}
        self._deaths = 0  # since a shard was committed
        self._heard: dict[str, Callable[[Worker, Any], None]] = {
            "asked": self._asked,
            "told": self._told,
            "built": self._built,
            "failed": self._failed,
        }

    def start(self) -> None:
        """A process for each device that has none, while there are shards to hand out."""
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit threads, locks and a GPU that it cannot use
        for device in [self._idle.popleft() for _ in range(min(len(self._idle), len(self._waiting)))]:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(self._job, device, self._processes, self._threads, theirs))
            process.start()
            theirs.close()
            self._workers[ours] = Worker(device, process, ours)

    def listen(self) -> None:
        """Hear whoever has something to say, until somebody has."""
        for connection in wait(list(self._workers)):
            worker = self._workers[connection]  # type: ignore[index]
            try:
                kind, value = worker.connection.recv()
                self._heard[kind](worker, value)
            except (EOFError, OSError):
                self._died(worker)

    def done(self) -> tuple[int, int]:
        """Inputs and rejects, of shards that are not committed too."""
        workers = self._workers.values()
        return (
            self.total.inputs + sum(worker.inputs for worker in workers),
            self.total.rejects.total() + sum(worker.rejects for worker in workers),
        )

    def end(self) -> None:
        """All processes, now: what they have not committed is forgotten."""
        for worker in self._workers.values():
            worker.process.terminate()
            worker.connection.close()  # it may wait for an answer
        for worker in self._workers.values():
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()

    def _asked(self, worker: Worker, _: None) -> None:
        shard = self._waiting.popleft() if self._waiting else None
        if shard is not None:
            worker.shards.append(shard)
        worker.connection.send(shard)

    def _told(self, worker: Worker, counted: tuple[int, int]) -> None:
        worker.inputs, worker.rejects = worker.inputs + counted[0], worker.rejects + counted[1]

    def _built(self, worker: Worker, built: tuple[int, Counts]) -> None:
        shard, counts = built
        worker.shards.remove(shard)
        worker.inputs, worker.rejects = worker.inputs - counts.inputs, worker.rejects - counts.rejects.total()
        self.total.merge(counts)
        self.left, self._deaths = self.left - 1, 0

    def _failed(self, worker: Worker, error: BaseException) -> None:
        raise error

    def _died(self, worker: Worker) -> None:
        """It ended, because there was nothing more to do or by force; the shards that it had are for others."""
        del self._workers[worker.connection]
        worker.process.join()
        worker.connection.close()
        self._idle.append(worker.device)
        self._waiting.extendleft(reversed(worker.shards))
        self._deaths += bool(worker.process.exitcode)
        if self._deaths >= TRIES:
            raise BuildFailed(
                f"{TRIES} processes died one after the other, the last one on {worker.device} with exit code "
                f"{worker.process.exitcode} over shard {next(iter(worker.shards), 'none')}; where memory is short, take fewer "
                "--devices or --workers, or a smaller --batch-size; the same command goes on"
            )


def _serve(job: Job, device: str, processes: int, threads: int, connection: Connection) -> None:
    """The life of a process: it asks for shards and builds them, until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which then ends us
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    parent = _Parent(connection)
    try:
        local.build_shards(job(device, parent.told, processes), parent.shards(), threads, parent.built)
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        with suppress(OSError):
            parent.say("failed", _picklable(error))


def _end_with(parent: Any) -> None:
    """A process whose parent is gone would go on writing where the next build begins."""
    parent.join()
    os._exit(1)


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own code raises
        return BuildFailed(f"{type(error).__name__}: {error}")
    return error


class _Parent:
    """Who hands out the shards, as a process talks to it, in any of its threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._saying = connection, Lock()
        self._inputs, self._rejects, self._last = 0, 0, time.monotonic()

    def say(self, kind: str, value: Any = None) -> None:
        with self._saying:
            self._connection.send((kind, value))

    def shards(self) -> Iterator[int]:
        """As they are handed out; to be taken by one thread."""
        self.say("asked")
        while (shard := self._connection.recv()) is not None:
            yield shard
            self.say("asked")

    def told(self, inputs: int, rejects: int) -> None:
        """How far this process is: said now and then."""
        self._inputs, self._rejects = self._inputs + inputs, self._rejects + rejects
        if time.monotonic() - self._last > SECONDS:
            self._count()

    def built(self, shard: int, counts: Counts) -> None:
        self._count()
        self.say("built", (shard, counts))

    def _count(self) -> None:
        self.say("told", (self._inputs, self._rejects))
        self._inputs, self._rejects, self._last = 0, 0, time.monotonic()
