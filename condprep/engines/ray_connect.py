"""A Ray cluster: reached within a bounded time, quiet, and what its nodes have room for."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from condprep.errors import UsageError

PATIENCE = 10.0  # seconds until an address has answered
MOST_CORES = 8  # of an actor that runs on CPUs alone: a process's own Python does not keep more of them busy


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected: to `address`, else as Ray itself looks for a cluster, else to one that is begun here.

    Who has connected already keeps their connection. Raises UsageError where there is no ray, or no answer.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'condprep[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is begun here; nobody was asked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what will be its default, which it warns of
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        _silence()
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
        raise UsageError(_refusal(address, error)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Ray itself would wait for two minutes, and then end the process."""
    if address in (None, "auto", "local"):
        return
    host, _, port = str(address).rpartition(":")
    if "://" in host or not host or not port.isdigit():
        raise UsageError(
            f"--address {address}: give HOST:PORT as `ray start --head` prints it, or auto, on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--address {address} does not answer ({getattr(error, 'strerror', None) or error}); give the address that "
            "`ray start --head` printed, from a machine of its network"
        ) from None


def _refusal(address: str | None, error: BaseException) -> str:
    if address == "auto" and isinstance(error, ConnectionError):
        return "--address auto: no Ray runs here; begin one with `ray start --head`, or leave out --address"
    lines = str(error).strip().splitlines()
    return f"--address {address} cannot be used: {lines[0] if lines else type(error).__name__}"


def _silence() -> None:
    """Ray prints a page for every process and node that is lost, onto standard output; we say the same in a line."""
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None


@dataclass(frozen=True)
class Size:
    """What an actor gets, and how many of them there are."""

    cores: int
    gpu: bool
    actors: int | None  # None: as many as there is room for

    def __str__(self) -> str:
        return f"{self.cores} cores" + " and a GPU" * self.gpu

    def wanted(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        return self.actors or max(1, sum(self._on(node) for node in alive(nodes)))

    def together(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """How many of them may share a node."""
        return max(1, *(self._on(node) for node in alive(nodes)), 0)

    def _on(self, node: Mapping[str, Any]) -> int:
        room = int(node["Resources"].get("CPU", 0)) // self.cores
        return min(room, int(node["Resources"].get("GPU", 0))) if self.gpu else room


def alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in nodes if node["Alive"]]


def size_of_actors(
    nodes: Sequence[Mapping[str, Any]], device: str, network: bool, cores: int | None, actors: int | None
) -> Size:
    """device: "auto", "cpu" or "cuda". network: whether a GPU would be of use. cores, actors: as the user says.

    Else an actor gets a GPU's share of its node's cores, or without a GPU those of the smallest node, but few enough to be
    kept busy. Raises UsageError where no node has what one needs.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device} is a device of one machine; with --engine ray it is auto, cpu or cuda")
    having = [node["Resources"] for node in alive(nodes) if node["Resources"].get("CPU", 0) >= 1]
    gpus = [resources for resources in having if resources.get("GPU", 0) >= 1]
    gpu = device == "cuda" or (device == "auto" and network and bool(gpus))
    if gpu and not gpus and not actors:
        raise UsageError(
            f"--device cuda: none of the {len(having)} nodes of the Ray cluster has a GPU; use --device cpu, or --actors N "
            "where the cluster brings nodes as they are asked for"
        )
    shares = [int(one["CPU"] // one["GPU"]) for one in gpus] if gpu else [int(one["CPU"]) for one in having]
    fitting = max(1, min([*shares, *([] if gpu else [MOST_CORES])], default=1))
    if cores and shares and cores > max(int(one["CPU"]) for one in having) and not actors:
        raise UsageError(f"--workers {cores}: no node of the Ray cluster has so many cores")
    return Size(cores or fitting, gpu, actors)
