"""`condprep.build`: a source becomes a dataset. The order of the steps; each has a file of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condprep.building.append import append_inputs, check_append
from condprep.building.begin import begin
from condprep.building.finish import finish, finished
from condprep.building.inputs import open_inputs
from condprep.building.on_devices import OpenBuilder, parse_devices
from condprep.building.options import BuildOptions, parse_options
from condprep.building.output_folder import at_target, check_outside, check_places, disk_errors, layout_of, locked
from condprep.building.paired_source import PairedSource
from condprep.building.parts import Part, parse_part, refuse_with_part
from condprep.building.plan_by_one import plan_by_one
from condprep.building.result import BuildResult, build_result, check_rejects, check_share, part_counts
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts
from condprep.engines.choose import check_engine, engine_for
from condprep.errors import UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.sources.chosen import FirstInputs
from condprep.weights.find import Weights

if TYPE_CHECKING:
    from condprep.building.on_ray import OnRay


def build(
    source: str | os.PathLike[str], out: str | os.PathLike[str], annotators: str | Sequence[str] = (), *,
    source_kind: str | None = None, image_column: str | None = None, condition_column: str | None = None,
    caption_column: str | None = None, split: str | None = None, config: str | None = None,
    follow_links: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None, device: str = "auto", devices: str | Sequence[str] | None = None,
    engine: str = "local", address: str | None = None, actors: int | None = None, weights: Weights | None = None,
    overwrite: bool = False, break_lock: bool = False, append: bool = False, replace: bool = False,
    max_rejects: float | None = None, part: str | tuple[int, int] | None = None, retry_rejects: str | Sequence[str] = (),
    progress: Callable[[Progress], None] = lambda _: None, **options: Any,
) -> BuildResult:  # fmt: skip
    """Turn the pictures of `source` into a Hugging Face dataset of training pairs at `out`.

    source: a folder, an imagefolder with metadata, a Hugging Face dataset (folder, parquet, Hub id), WebDataset tars or
    zips. config: of a dataset with several. follow_links: folders outside of it that its links and rows may lead to.
    out: a folder, or a URL (s3://, gs://): shards go there as they are finished, and the working folder stays small.
    annotators: names as `canny` or `openpose:blaze`; each gives a column. None: the source is a dataset of pairs as
    `verify` reads them, and its maps, in `condition_column`, are checked and imported.
    options: the fields of BuildOptions (resolution=512, fit="crop", ...) and `precision`.
    workers: threads (default: the cores). device: "auto", "cpu", "cuda", ... devices: a process for each of several
    instead, "all", "cuda:0,cuda:1" or a list; the dataset is the same bytes. engine: who runs the shard jobs; "local",
    this machine, or "ray", a cluster, whose address and number of actors may be given. part: "0/4" or (0, 4): only the
    shards 0, 4, 8, ... of the plan, while other processes build the other parts; `condprep.finish` makes the dataset.
    break_lock: take over a target at a URL from a build that is gone. append: the dataset at `out` is finished, and what
    the source has by now besides becomes further shards of it. replace: then rows whose picture changed are made anew in
    their places, and those whose picture is gone are taken away. retry_rejects: codes of rejects, or "all": those inputs
    are tried again, and may have changed meanwhile. What was interrupted goes on when the same call is made again.

    Raises UsageError (or its children) for what the caller got wrong and BuildFailed when no row came out, more than
    `max_rejects` (a share, 0..1) of the inputs were rejected, or the disk is full.
    """
    began = time.monotonic()
    check_share(max_rejects)
    check_engine(engine, devices=devices, part=part, append=append, address=address, actors=actors)
    chosen, mine, several = parse_options(annotators, **options), parse_part(part), parse_devices(devices, device)
    given = {"--overwrite": overwrite, "--retry-rejects": bool(retry_rejects), "--append": append}
    _check_together(chosen, mine, given | {"--max-rejects": max_rejects is not None}, replace)
    layout = _place(source, out, mine)
    columns = {"image_column": image_column, "condition_column": condition_column, "caption_column": caption_column}
    links = [Path(folder) for folder in follow_links]
    read = columns | {"split": split, "config": config, "follow_links": links}
    pictures = _opened(str(source), chosen, source_kind, layout, **read)
    everything = layout, pictures, chosen, weights or Weights()
    called = repr(os.fspath(source))
    cluster = _on_ray(*everything, [source, *links], device, address, actors, workers) if engine == "ray" else None
    building = _Building(*everything, device, several, cluster, workers, mine, progress, began, called)
    with building.held(overwrite, break_lock):
        if append:
            result = building.append(replace)
        else:
            build_shards = building.begin(overwrite, retry_rejects)  # called here: a build is as deep as its engine
            result = building.finish(build_shards())
    if not mine:
        check_rejects(result, max_rejects)
    return result


@dataclass
class _Building:
    """One call of `build`, in the order of its methods."""

    layout: Layout
    pictures: Source
    options: BuildOptions
    weights: Weights
    device: str
    several: list[str]  # devices, each of which gets a process
    cluster: OnRay | None
    workers: int | None
    mine: Part | None
    progress: Callable[[Progress], None]
    began: float
    called: str  # the source
    builder: ShardBuilder | None = None

    @contextmanager
    def held(self, overwrite: bool, break_lock: bool) -> Iterator[None]:
        """Nobody else builds there."""
        place = at_target(self.layout, overwrite, break_lock)
        with disk_errors(self.layout.root), place, locked(self.layout, self.mine), self.cluster or nullcontext():
            yield

    def append(self, anew: bool) -> BuildResult:
        everything = self.layout, self.pictures, self.options, self.weights
        return append_inputs(*everything, self.several or [self.device], self.workers, self.progress, anew=anew)

    def begin(self, overwrite: bool, retry: str | Sequence[str]) -> Callable[[], Counts]:
        """What builds the shards that are missing."""
        retry = (retry,) if isinstance(retry, str) else tuple(retry)
        how: dict[str, Any] = {"overwrite": overwrite, "weights": self.weights, "retry": retry, "cluster": self.cluster}
        how["called"] = self.called
        how["device"] = (self.several or [self.device])[0]
        with plan_by_one(self.layout, self.mine, self.progress) as told:
            builder = begin(self.layout, self.pictures, self.options, progress=told, **how)
            if builder:
                self.layout.begin()
        self.builder = builder
        if not builder:
            return Counts
        if self.mine:
            builder.keep_to(self.mine.shards(builder.plan.shards))
        job = OpenBuilder(self.layout, self.pictures, self.options, self.weights, builder.columns)
        build_shards = engine_for(builder, job, self.several, self.workers or usable_cores(), self.cluster)
        return partial(build_shards, builder.pending)

    def finish(self, built: Counts) -> BuildResult:
        """built: what this run built."""
        if self.builder and self.mine:
            counts = part_counts(self.layout, self.builder.plan, self.mine)
            return build_result(self.layout, self.builder, counts, built, self._seconds, self.mine)
        if self.builder:
            if self.cluster:
                self.layout.gather()
            finish(self.builder)
        return build_result(self.layout, self.builder, finished(self.layout), built, self._seconds)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.began


def _place(source: str | os.PathLike[str], out: str | os.PathLike[str], mine: Part | None) -> Layout:
    """Where the dataset is to be. Raises UsageError where that is no place for one of `source`."""
    if not str(source):
        raise UsageError('the source is "", which names nothing; give "." for the current folder')
    layout = layout_of(out, mine)
    check_places(str(source), layout)
    return layout


def _on_ray(*told: Any) -> OnRay:
    """Its modules are loaded by who asks for a cluster alone."""
    from condprep.building.on_ray import OnRay

    return OnRay(*told)


def _check_together(chosen: BuildOptions, mine: Part | None, given: dict[str, bool], replace: bool) -> None:
    """What excludes what. mine: the part that this process builds. given: options. Raises UsageError."""
    refuse_with_part(mine, given | {"--format webdataset": chosen.format == "webdataset"})
    others = given["--overwrite"] or given["--retry-rejects"] or bool(chosen.limit)
    check_append(given["--append"], others, replace=replace, form=chosen.format)


def _opened(source: str, chosen: BuildOptions, kind: str | None, layout: Layout, **how: Any) -> Source:
    """The inputs that are asked for. how: what `open_inputs` is told besides. Raises UsageError."""
    kind = kind or (None if chosen.annotators else "pairs")
    every_caption = chosen.captions == "list"
    pictures = open_inputs(source, kind, all_captions=every_caption, exclude=layout.root.absolute(), **how)
    if isinstance(pictures, PairedSource) == bool(chosen.annotators):
        raise UsageError(
            "maps are either imported, with --source-kind pairs, or made by an --annotator: give one of the two"
        )
    if pictures.kind not in ("folder", "imagefolder"):  # those leave out what lies in the output
        check_outside(source, layout)
    return FirstInputs(pictures, chosen.limit) if chosen.limit else pictures
