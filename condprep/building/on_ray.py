"""A build in a Ray cluster: what travels to its nodes, and what they must have in common."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from condprep.annotators.recorded import as_begun
from condprep.annotators.registry import find_weights, parse
from condprep.building.load_annotators import Begun, Loaded, load
from condprep.building.on_devices import share_of_memory, telling, written_plan
from condprep.building.options import BuildOptions
from condprep.building.paired_source import PairedSource
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts
from condprep.engines.ray_connect import connected, size_of_actors
from condprep.engines.ray_fleet import Fleet
from condprep.errors import AnnotatorError, UsageError
from condprep.sources.base import Source
from condprep.weights.find import Weights

PATIENCE = 10.0  # seconds until a network's file system shows a node what was written a moment ago


@dataclass(frozen=True)
class NodeJob:
    """What a node is told: where everything lies and what is to be loaded, no pictures and no networks."""

    layout: Layout
    source: Source
    options: BuildOptions
    weights: Weights
    device: str
    folder: Path  # to which paths are relative
    paths: tuple[Path, ...]  # that must be there
    mark: str  # what stands in the lock file of the output
    sha256: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )  # column -> of the weights files that the driver has

    def open(self, begun: Begun | None) -> OpenedJob:
        """Raises UsageError where this node does not see what it needs, AnnotatorError where it has other weights."""
        if self.paths or not self.layout.target:
            self._change_folder()
        for path in self.paths:
            if not path.exists():
                raise UsageError(f"does not see {path}: all nodes need it under the same path")
        layout = self._layout()
        loaded = load(self.source, self.options, begun, self.device, self.weights)
        for one in loaded.described:
            driver = self.sha256.get(one["column"], {})
            for name, here in one["weights"].items():
                if driver.get(name, here) != here:
                    raise AnnotatorError(
                        f"has other weights {name} (sha256 {here}) than the machine where the build was begun "
                        f"(sha256 {driver[name]}): give all nodes the same file, with --weights FOLDER or CONDPREP_WEIGHTS"
                    )
        return OpenedJob(self, layout, loaded)

    def _change_folder(self) -> None:
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UsageError(
                f"does not see {self.folder}, where the build was begun ({error.strerror}): begin it in a folder that all nodes have"
            ) from None

    def _layout(self) -> Layout:
        """The dataset as this node sees it. A place of the same name that is another one would take the shards unseen."""
        if target := self.layout.target:
            if target.claims.token() != self.mark:
                raise UsageError(
                    f"sees another {target.remote} than the machine where the build was begun: give all nodes the same endpoint "
                    "and credentials"
                )
            mine = target.on_a_node()
            return Layout(mine.folder, mine)
        patience = time.monotonic() + PATIENCE
        while not (self.layout.lock.is_file() and self.layout.lock.read_text(encoding="utf-8") == self.mark):
            if time.monotonic() > patience:
                raise UsageError(
                    f"does not see {self.layout.root} as the machine where the build was begun does: "
                    "--out must be a folder that all nodes share"
                )
            time.sleep(0.1)
        return self.layout


@dataclass(frozen=True)
class OpenedJob:
    """In an actor: its annotators, loaded."""

    job: NodeJob
    layout: Layout
    loaded: Loaded

    @property
    def report(self) -> Report:
        return Report(self.loaded.told())

    def builder(self, told: Callable[[int, int], None], actors: int) -> ShardBuilder:
        """Of the plan, which is written by now."""
        job = self.job
        if target := self.layout.target:
            target.fetch_plan(self.layout.root)
        return ShardBuilder(
            self.layout,
            written_plan(self.layout),
            job.source,
            job.options,
            self.loaded.annotators,
            self.loaded.columns(job.options),
            telling(told),
            memory=share_of_memory(actors),
            sharing=actors,
            writer=token_hex(4),  # one that is taken for dead may write the same shard
            pending=(),  # the driver knows
        )


@dataclass(frozen=True)
class Report:
    """What a node has loaded, without the networks themselves."""

    loaded: Loaded

    def differences(self, other: Report) -> list[str]:
        """What the other has that is another, as "numpy: '2.4.6' there, '2.5.0' here"."""
        mine, others = self._flat(), other._flat()
        return [
            f"{name}: {mine.get(name)!r} there, {others.get(name)!r} here"
            for name in sorted(mine | others)
            if mine.get(name) != others.get(name)
        ]

    def _flat(self) -> dict[str, Any]:
        annotators = {f"{one['column']}.{name}": value for one in self.loaded.described for name, value in one.items()}
        return {**annotators, **self.loaded.machine}


class OnRay:
    """A build's actors, from the moment when the annotators are loaded to the end of the block."""

    def __init__(
        self,
        layout: Layout,
        source: Source,
        options: BuildOptions,
        weights: Weights,
        paths: Iterable[str | os.PathLike[str]],
        device: str,
        address: str | None,
        actors: int | None,
        cores: int | None,
    ) -> None:
        """paths: what else is read, where it is on this machine. address: of the cluster. actors, cores: how many, and of
        each; as fits the cluster where they are None."""
        self._layout, self._source, self._options, self._weights = layout, source, options, weights
        self._paths, self._device = [*paths, *filter(None, [weights.folder])], device
        self._address, self._actors, self._cores = address, actors, cores
        self._settled: Begun = ()
        self._ending = ExitStack()
        self._fleet: Fleet

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def load(self, begun: Begun | None) -> Loaded:
        """Have the first actor load the annotators, and say what it has loaded. Raises what `connected` and a node raise."""
        names = self._names(begun)
        sha256 = {
            column: {file: sha for file, sha in find_weights(name, self._weights).items() if sha is not None}
            for name, column in zip(names, self._options.columns().values())
        }
        ray = self._ending.enter_context(connected(self._address))
        network = not all(parse(name)[0].cpu_only for name in names)
        size = size_of_actors(ray.nodes(), self._device, network, self._cores, self._actors)
        job = NodeJob(
            Layout(self._layout.root.absolute(), self._layout.target),
            self._source,
            self._options,
            self._weights,
            "cuda" if size.gpu else "cpu",
            Path.cwd(),
            tuple(path.absolute() for path in map(Path, self._paths) if path.exists()),
            self._mark(),
            sha256,
        )
        name = f"condprep {Path(str(self._layout)).name} {job.mark[:6]}"
        self._fleet = self._ending.enter_context(Fleet(ray, job, name, size))
        loaded: Loaded = self._fleet.open(begun).loaded
        self._settled = loaded.described
        return loaded

    def build_shards(self, shards: Sequence[int], progress: Callable[[int, int], None]) -> Counts:
        """As the other engines do."""
        if target := self._layout.target:
            target.hand_out_plan(self._layout.root)
        return self._fleet.build_shards(shards, progress, self._settled)

    def _names(self, begun: Begun | None) -> list[str]:
        if isinstance(self._source, PairedSource):
            return []
        names = list(self._options.columns())
        return [as_begun(name, record) for name, record in zip(names, begun)] if begun else names

    def _mark(self) -> str:
        """Written into the lock, which is ours and stays ours while a new plan clears the folder; of a URL what stands there."""
        if self._layout.target:
            return self._layout.target.claims.token()
        mark, lock = token_hex(16), self._layout.lock
        self._ending.callback(lambda: lock.exists() and lock.write_text(""))
        lock.write_text(mark, encoding="utf-8")
        return mark
