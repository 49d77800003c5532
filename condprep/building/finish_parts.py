"""`condprep.finish`: the shards that parts have built become the dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from condprep import __version__
from condprep.building.finish import finish as put_in_places
from condprep.building.finish import finished
from condprep.building.options import BuildOptions
from condprep.building.output_folder import at_target, disk_errors, layout_of, locked
from condprep.building.parts import begun_parts
from condprep.building.plan import Plan, check_config
from condprep.building.result import BuildResult, build_result, check_rejects, check_share
from condprep.building.retry_rejects import is_retrying
from condprep.dataset.layout import SPLITS, Layout
from condprep.dataset.remote import opened
from condprep.dataset.shards import Counts
from condprep.errors import BuildFailed, DatasetError, UsageError
from condprep.runtime.progress import Progress

SHOWN = 5  # shards and parts that are named


def finish(
    out: str | os.PathLike[str],
    *,
    max_rejects: float | None = None,
    break_lock: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> BuildResult:
    """Make the dataset at `out` of the shards that `condprep.build(..., part=...)` has built there; the result is of all.

    break_lock: at a URL, take over from processes that are gone.

    It may be called again, before its end and after. Raises UsageError where no build was begun, DatasetError while a
    process builds there, and BuildFailed where shards are missing, which changes nothing, where no row came out, or where more
    than `max_rejects` (a share, 0..1) of the inputs were rejected.
    """
    began = time.monotonic()
    check_share(max_rejects)
    layout = layout_of(out)
    if not layout.target:
        _check_begun(layout)
    with disk_errors(layout.root), at_target(layout, False, break_lock), locked(layout):
        _check_begun(layout)
        if not layout.done.exists():
            put_in_places(_all_parts(layout, progress))
        result = build_result(layout, None, finished(layout), Counts(), time.monotonic() - began)
    check_rejects(result, max_rejects)
    return result


def _check_begun(layout: Layout) -> None:
    if not (layout.private / "plan.json").exists():
        raise UsageError(f"no build was begun at {layout}; begin it with `condprep build ... --part 0/N`")


@dataclass(frozen=True)
class AllParts:
    """A build whose shards are all there."""

    layout: Layout
    plan: Plan
    options: BuildOptions
    columns: Mapping[str, pa.DataType]
    progress: Callable[[Progress], None]


def _all_parts(layout: Layout, progress: Callable[[Progress], None]) -> AllParts:
    plan = Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    check_config(plan, {"condprep": __version__})
    missing = layout.missing(plan.shards)
    if missing or is_retrying(layout):
        raise BuildFailed(_says_missing(layout, plan, missing))
    try:
        options = BuildOptions.model_validate(plan.config["requested"]["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{layout.private / 'plan.json'} is damaged ({error}); start afresh with --overwrite"
        ) from None
    return AllParts(layout, plan, options, _columns(layout, plan), progress)


def _says_missing(layout: Layout, plan: Plan, missing: Sequence[int]) -> str:
    """Which shards are missing, and whose they are where all parts were of the same number."""
    said = f"{len(missing)} of the {plan.shards} shards of {layout} are missing: {_some(missing)}"
    divisions = {part.of for part in begun_parts(layout)}
    if len(divisions) != 1:
        return f"{said}; build them first, with the command that began them"
    (of,) = divisions
    parts = sorted({shard % of for shard in missing})
    return f"{said}; run --part {_some([f'{part}/{of}' for part in parts])} again, then finish"


def _some(things: Sequence[object]) -> str:
    return ", ".join(map(str, things[:SHOWN])) + f" and {len(things) - SHOWN} more" * (len(things) > SHOWN)


def _columns(layout: Layout, plan: Plan) -> dict[str, pa.DataType]:
    """Of the first file of rows, where it was built or where it goes; none of a dataset without rows."""
    for shard in range(plan.shards):
        for file in Counts.load(layout.shard(shard) / "counts.json").files:
            return _columns_of(layout, layout.shard(shard) / file["name"])
    return {}


def _columns_of(layout: Layout, built: Path) -> dict[str, pa.DataType]:
    """built: a file of rows, which may have gone to its place already."""
    folders = [layout.root / "data", *(layout.root / split for split in SPLITS)]
    placed = (path for folder in folders for path in sorted(folder.glob(f"*{built.suffix}")))
    path = built if built.exists() else next(placed, built)
    try:
        with opened(path) as file:
            schema = pq.read_schema(file) if path.suffix == ".parquet" else pa.ipc.open_stream(file).schema
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is damaged ({error}); start afresh with --overwrite") from None
    return {field.name: field.type for field in schema}
