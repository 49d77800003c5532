"""Checkpoints are written by a thread, from a copy, while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from condprep.runtime.files import commit_json
from trainer.training.checkpoint import Checkpoints
from trainer.training.state import LearnerState

ROOM = 1.5  # times the state, of free memory, for a copy of it


@dataclass(frozen=True)
class _Written:
    """A state and its records, into a folder."""

    state: LearnerState
    records: Mapping[str, Any]

    def __call__(self, folder: Path) -> None:
        self.state.write(folder)
        for name, record in self.records.items():
            commit_json(folder / name, record)


class CheckpointWriter:
    """One checkpoint at a time: who wants the next one waits for the one before."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self, update: int, state: LearnerState, manifest: Mapping[str, Any], records: Mapping[str, Any] = {}
    ) -> None:
        """Take a copy now, and write it in time; where memory has no room for one, write it at once.

        records: what lies beside the weights, by its files' names.

        Raises TrainingStopped where this one, written at once, or the one before cannot be written.
        """
        self.wait()
        if ROOM * state.size > psutil.virtual_memory().available:
            self.checkpoints.save(update, _Written(state, records), manifest)
        else:
            self._pending = self._pool.submit(
                self.checkpoints.save, update, _Written(state.copied(), records), manifest
            )

    def check(self) -> None:
        """Raises TrainingStopped where the last one has turned out not to be writable."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until the last one is on the disk. Raises TrainingStopped where it cannot be written."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Let the last one be finished, whatever came of the training."""
        self._pool.shutdown()
