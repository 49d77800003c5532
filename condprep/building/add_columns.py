"""Adding annotators' columns to a dataset that is there already, and computing only those.

The dataset is built anew in `.condprep/into/` from its own rows, whose columns are kept as they are; when that build is done,
its files take the places of the old ones. Killed at any moment, the same call goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from condprep.building.begin import as_requested, begin
from condprep.building.existing_rows import ExistingRows
from condprep.building.finish import finish, finished
from condprep.building.on_devices import OpenBuilder, parse_devices
from condprep.building.options import parse_options
from condprep.building.output_folder import changing, disk_errors, layout_of
from condprep.building.plan import Plan
from condprep.building.result import BuildResult, build_result
from condprep.dataset.layout import DATA_FOLDERS, FILES, Layout, remove_empty_splits
from condprep.dataset.reader import files
from condprep.dataset.shards import Counts
from condprep.engines.choose import engine_for
from condprep.errors import UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.own import make_folder, move, remove, remove_tree
from condprep.runtime.progress import Progress
from condprep.weights.find import Weights


def add_columns(
    dataset: str | Path,
    annotators: str | Sequence[str],
    *,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    network_memory: int | str | None = None,
    workers: int | None = None,
    device: str = "auto",
    devices: str | Sequence[str] | None = None,
    weights: Weights | None = None,
    break_lock: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> BuildResult:
    """Add a column for each annotator to a dataset that condprep built; its other columns keep their bytes.

    The maps are made from the stored pictures. No row leaves the dataset: one that an annotator rejects has no map there.
    The call that added the newest columns may be made again, and finds nothing to do.
    The arguments are those of `build`; the dataset may be at a URL. Raises UsageError for a folder that is no such dataset, for a column that it
    has, and for one that was built with fit "pad", whose black border would be annotated.
    """
    began = time.monotonic()
    several = parse_devices(devices, device)
    layout = layout_of(dataset)
    staging = Layout(layout.private / "into")
    with disk_errors(layout.root), changing(layout, break_lock, "--into adds to one that `condprep build` made"):
        if staging.done.exists():  # of a run that was stopped, whatever it added
            take_places(layout, staging)
        files(layout.root)  # raises where they are tars
        rows = ExistingRows(layout)
        if not annotators:
            raise UsageError("--into adds the maps of an annotator; name one with --annotator")
        of_device = {"batch_size": batch_size, "network_memory": network_memory}
        options = parse_options(annotators, params, precision, **of_device, **rows.inherited)
        if rows.newest_are(options):
            remove_tree(staging.root, ignore_errors=True)
            return build_result(layout, None, finished(layout), Counts(), time.monotonic() - began)
        rows.check(options.columns().values())
        staging = _take_up(layout, as_requested(rows, options))
        weights = weights or Weights()
        first, existing = several[0] if several else device, rows.columns
        builder = begin(staging, rows, options, device=first, weights=weights, progress=progress, existing=existing)
        built = Counts()
        if builder:
            staging.begin()
            job = OpenBuilder(staging, rows, options, weights, builder.columns)
            build_shards = engine_for(builder, job, several, workers or usable_cores(), None)
            built = build_shards(builder.pending)
        with layout.exchanged():
            if builder:
                finish(builder, rows.rejects, rows.merge)
            counts = take_places(layout, staging)
        return build_result(layout, builder, counts, built, time.monotonic() - began)


def take_places(layout: Layout, staging: Layout) -> Counts:
    """Move the finished dataset in `staging` over the one at `layout`; its counts.

    Every step can be repeated. done.json is last: while it is in `staging`, the moves go on there.
    """
    counts = Counts.load(staging.done)
    remove_tree(staging.shards, ignore_errors=True)
    before = Counts.load(layout.done).files
    for path in sorted(_moving(staging)):
        target = layout.root / path.relative_to(staging.root)
        make_folder(target.parent)
        move(path, target)
    for name in {file["name"] for file in before} - {file["name"] for file in counts.files}:
        if name.partition("/")[0] in DATA_FOLDERS:
            remove(layout.root / name, missing_ok=True)
    remove_empty_splits(layout, counts.rows)
    move(staging.done, layout.done)
    for begun in (staging.root, *_all_aside(staging)):  # those were for the dataset as it was
        remove_tree(begun)
    staging.remove_shards()
    return counts


def _take_up(layout: Layout, requested: Mapping[str, Any]) -> Layout:
    """Where what is asked for now is built, with what was begun of it. What was begun of anything else is set aside."""
    staging = layout.staging("into", _digest(requested))
    _set_aside(staging, requested)
    make_folder(staging.private)
    return staging


def _set_aside(staging: Layout, requested: Mapping[str, Any]) -> None:
    if plan := Plan.load(staging.private):
        if plan.config["requested"] == requested:
            return
        remove_tree(aside := _aside(staging, plan.config["requested"]), ignore_errors=True)
        move(staging.root, aside)
    if (before := _aside(staging, requested)).exists():
        remove_tree(staging.root, ignore_errors=True)
        move(before, staging.root)


def _aside(staging: Layout, requested: Mapping[str, Any]) -> Path:
    return staging.root.with_name(f"{staging.root.name}-{_digest(requested)}")


def _digest(requested: Mapping[str, Any]) -> str:
    return sha256(json.dumps(requested, sort_keys=True).encode()).hexdigest()[:16]


def _all_aside(staging: Layout) -> Iterator[Path]:
    return staging.root.parent.glob(f"{staging.root.name}-*")


def _moving(staging: Layout) -> Iterator[Path]:
    """What a build has made there; whatever else lies in it was made by others, and is not taken over."""
    for name in (staging.private.name, *DATA_FOLDERS):
        for path in (staging.root / name).rglob("*"):
            left = staging.shards in path.parents  # of its building, where a disk did not let it be removed
            if path.is_file() and path not in (staging.done, staging.lock) and not left:
                yield path
    yield from (path for name in FILES if (path := staging.root / name).is_file())
