"""`condprep.build`: a source becomes a dataset. The order of the steps; each has a file of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condprep.building.append import append_inputs, check_append
from condprep.building.begin import begin
from condprep.building.finish import finish, finished
from condprep.building.inputs import open_inputs
from condprep.building.on_devices import OpenBuilder, parse_devices
from condprep.building.options import BuildOptions, parse_options
from condprep.building.output_folder import at_target, check_folders, check_target, disk_errors, layout_of, locked
from condprep.building.paired_source import PairedSource
from condprep.building.parts import Part, parse_part, refuse_with_part
from condprep.building.plan_by_one import plan_by_one
from condprep.building.result import BuildResult, build_result, check_rejects, check_share, part_counts
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
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    annotators: str | Sequence[str] = (),
    *,
    source_kind: str | None = None,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
    follow_links: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None,
    device: str = "auto",
    devices: str | Sequence[str] | None = None,
    engine: str = "local",
    address: str | None = None,
    actors: int | None = None,
    weights: Weights | None = None,
    overwrite: bool = False,
    break_lock: bool = False,
    append: bool = False,
    replace: bool = False,
    max_rejects: float | None = None,
    part: str | tuple[int, int] | None = None,
    retry_rejects: str | Sequence[str] = (),
    progress: Callable[[Progress], None] = lambda _: None,
    **options: Any,
) -> BuildResult:
    """Turn the pictures of `source` into a Hugging Face dataset of training pairs at `out`.

    source: a folder, an imagefolder with metadata, a Hugging Face dataset (folder, parquet, Hub id), WebDataset tars or zips.
    config: of a dataset with several. follow_links: folders outside of the source that its links and rows may lead to.
    annotators: names as `canny` or `openpose:blaze`; each gives a column. None: the source is a dataset of pairs as `verify`
    reads them, and its maps, in `condition_column`, are checked and imported. options: the fields of BuildOptions
    (resolution=512, fit="crop", ...) and `precision`. workers: threads (default: the cores). device: "auto", "cpu", "cuda", ...
    devices: a process for each of several instead, "all", "cuda:0,cuda:1" or a list; the dataset is the same bytes.
    engine: who runs the shard jobs; "local", this machine, or "ray", a cluster, whose address and number of actors may be given.
    part: "0/4" or (0, 4): only the shards 0, 4, 8, ... of the plan, while other processes build the other parts in the same
    folder; `condprep.finish` makes the dataset of them.
    out: a folder, or a URL (s3://, gs://): shards go there as they are finished, and the working folder in the cache stays small.
    break_lock: take over a target at a URL from a build that is gone.
    append: the dataset at `out` is finished, and what the source has by now besides becomes further shards of it.
    replace: then rows whose picture changed are made anew in their places, and those whose picture is gone are taken away.
    retry_rejects: codes of rejects, or "all": those inputs are tried again, and may have changed meanwhile.
    A build that was interrupted goes on where it stopped when the same call is made again.

    Raises UsageError (or its children) for what the caller got wrong and BuildFailed when no row came out, more than
    `max_rejects` (a share, 0..1) of the inputs were rejected, or the disk is full.
    """
    began = time.monotonic()
    if not str(source):
        raise UsageError('the source is "", which names nothing; give "." for the current folder')
    check_share(max_rejects)
    check_engine(engine, devices=devices, part=part, append=append, address=address, actors=actors)
    chosen, several = parse_options(annotators, **options), parse_devices(devices, device)
    mine = parse_part(part)
    retry = (retry_rejects,) if isinstance(retry_rejects, str) else tuple(retry_rejects)
    bounded = max_rejects is not None
    _check_together(
        chosen, mine, overwrite=overwrite, append=append, replace=replace, retry=bool(retry), bounded=bounded
    )
    layout = layout_of(out, mine)
    check_target(str(source), layout)
    check_folders(Path(source), layout.root)
    columns = {"image_column": image_column, "condition_column": condition_column, "caption_column": caption_column}
    links = [Path(folder) for folder in follow_links]
    pictures = _opened(
        str(source), chosen, source_kind, layout, **columns, split=split, config=config, follow_links=links
    )
    everything = layout, pictures, chosen, weights or Weights()
    cluster = (
        _on_ray(*everything, [source, *follow_links], device, address, actors, workers) if engine == "ray" else None
    )
    with (
        disk_errors(layout.root),
        at_target(layout, overwrite, break_lock),
        locked(layout, mine),
        cluster or nullcontext(),
    ):
        first, built = several[0] if several else device, Counts()
        how: dict[str, Any] = {"overwrite": overwrite, "device": first, "weights": everything[-1], "retry": retry}
        if append:
            added = append_inputs(*everything, several or [device], workers, progress, anew=replace)
            check_rejects(added, max_rejects)
            return added
        with plan_by_one(layout, mine, progress) as told:
            builder = begin(layout, pictures, chosen, progress=told, cluster=cluster, **how)
            if builder:
                layout.begin()
        if builder:
            if mine:
                builder.keep_to(mine.shards(builder.plan.shards))
            job = OpenBuilder(*everything, builder.columns)
            build_shards = engine_for(builder, job, several, workers or usable_cores(), cluster)
            built = build_shards(builder.pending)
            if mine:
                counts = part_counts(layout, builder.plan, mine)
                return build_result(layout, builder, counts, built, time.monotonic() - began, mine)
            if cluster:
                layout.gather()
            finish(builder)
        result = build_result(layout, builder, finished(layout), built, time.monotonic() - began)
    check_rejects(result, max_rejects)
    return result


def _on_ray(*told: Any) -> OnRay:
    """Its modules are loaded by who asks for a cluster alone."""
    from condprep.building.on_ray import OnRay

    return OnRay(*told)


def _check_together(
    chosen: BuildOptions,
    mine: Part | None,
    *,
    overwrite: bool,
    append: bool,
    replace: bool,
    retry: bool,
    bounded: bool,
) -> None:
    """What excludes what. mine: the part that this process builds. bounded: by --max-rejects. Raises UsageError."""
    given = {
        "--overwrite": overwrite,
        "--retry-rejects": retry,
        "--max-rejects": bounded,
        "--append": append,
        "--format webdataset": chosen.format == "webdataset",
    }
    refuse_with_part(mine, given)
    others = overwrite or retry or bool(chosen.limit)
    check_append(append, others, replace=replace, form=chosen.format)


def _opened(source: str, chosen: BuildOptions, kind: str | None, layout: Layout, **how: Any) -> Source:
    """The inputs that are asked for. how: what `open_inputs` is told besides. Raises UsageError."""
    kind = kind or (None if chosen.annotators else "pairs")
    every_caption = chosen.captions == "list"
    pictures = open_inputs(source, kind, all_captions=every_caption, exclude=layout.root.absolute(), **how)
    if isinstance(pictures, PairedSource) == bool(chosen.annotators):
        raise UsageError(
            "maps are either imported, with --source-kind pairs, or made by an --annotator: give one of the two"
        )
    return FirstInputs(pictures, chosen.limit) if chosen.limit else pictures
