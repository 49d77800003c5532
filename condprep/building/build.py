"""The only orchestration: source, plan, pipeline, shards, dataset."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from condprep import __version__
from condprep.annotators.batches import fitting_batch
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import as_begun
from condprep.annotators.registry import load_annotator
from condprep.building.inputs import open_inputs
from condprep.building.options import BuildOptions, parse_options
from condprep.building.output_folder import check_folders, disk_errors, locked
from condprep.building.paired_source import PairedSource
from condprep.building.picture import Pipeline, Work
from condprep.building.plan import Plan, check_config, check_inputs, make_plan
from condprep.dataset.card import write_card
from condprep.dataset.columns import arrow_schema, columns, datasets_features, further_column
from condprep.dataset.layout import Layout, finish
from condprep.dataset.shards import Counts, ShardWriter
from condprep.errors import BuildFailed, DatasetError, SourceError, UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.files import commit_json
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.types import Reject
from condprep.weights.find import Weights


@dataclass(frozen=True)
class BuildResult:
    """What a build made. inputs = sum of rows + sum of rejects."""

    path: Path
    inputs: int
    rows: Mapping[str, int]  # split -> rows
    rejects: Mapping[str, int]  # "stage: reason" -> pictures
    bytes: int  # of pictures and maps
    enlarged: int  # rows whose picture was enlarged
    untouched: int  # rows that hold the source's own bytes
    without_caption: int
    annotators: Sequence[Mapping[str, Any]]  # provenance, one each
    resumed: int  # inputs that an earlier run had done already
    seconds: float  # of this run


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
    workers: int | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    overwrite: bool = False,
    max_rejects: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    **options: Any,
) -> BuildResult:
    """Turn the pictures of `source` into a Hugging Face dataset of training pairs at `out`.

    source: a folder, an imagefolder with metadata, a Hugging Face dataset (folder, parquet, Hub id) or WebDataset tars.
    annotators: names as `canny` or `openpose:blaze`; each gives a column. None: the source is a dataset of pairs as `verify`
    reads them, and its maps, in `condition_column`, are checked and imported. options: the fields of BuildOptions
    (resolution=512, fit="crop", ...) and `precision`. workers: threads (default: the cores). device: "auto", "cpu", "cuda", ...
    A build that was interrupted goes on where it stopped when the same call is made again.

    Raises UsageError (or its children) for what the caller got wrong and BuildFailed when no row came out, more than
    `max_rejects` (a share, 0..1) of the inputs were rejected, or the disk is full.
    """
    began = time.monotonic()
    chosen = parse_options(annotators, **options)
    layout = Layout(Path(out))
    check_folders(Path(source), layout.root)
    pictures = open_inputs(
        str(source),
        source_kind or (None if chosen.annotators else "pairs"),
        image_column=image_column,
        condition_column=condition_column,
        caption_column=caption_column,
        split=split,
        exclude=layout.root.absolute(),
    )
    if isinstance(pictures, PairedSource) == bool(chosen.annotators):
        raise UsageError(
            "maps are either imported, with --source-kind pairs, or made by an --annotator: give one of the two"
        )
    with disk_errors(layout.root), locked(layout):
        run = Run(layout, pictures, chosen, progress)
        counts = run.build(
            None if overwrite else Plan.load(layout.private),
            device,
            weights or Weights(),
            workers or usable_cores(),
        )
        result = build_result(layout.root, run.plan, counts, run.resumed, time.monotonic() - began)
    _check_rejects(result, max_rejects)
    return result


class Base(Protocol):
    """What a dataset brings into a build that adds columns to it."""

    @property
    def columns(self) -> Mapping[str, pa.DataType]:
        """Its columns, in order."""
        ...

    @property
    def rejects(self) -> bytes:
        """Its rejects.jsonl."""
        ...

    def merge(self, provenance: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its provenance, extended by that of the added columns."""
        ...


class Run:
    """One call of `build`, once its output folder is locked."""

    def __init__(
        self,
        layout: Layout,
        source: Source,
        options: BuildOptions,
        progress: Callable[[Progress], None],
        base: Base | None = None,
    ) -> None:
        """base: the dataset to which the annotators' columns are added, where the source is one."""
        self.layout, self.source, self.options, self.progress, self.base = layout, source, options, progress, base
        self.resumed = 0

    def build(self, plan: Plan | None, device: str, weights: Weights, workers: int) -> Counts:
        """Plan or resume, do the shards that are missing, finish. Returns the counts of the whole dataset."""
        requested = {"options": self.options.model_dump(mode="json"), "source": dict(self.source.identity)}
        if plan:
            check_config(plan, {"condprep": __version__, "requested": requested})
            check_inputs(plan, self.source)
        if plan and self.layout.done.exists():
            self.plan, self.resumed = plan, plan.inputs
        else:
            self._build(plan, requested, self._load(plan, device, weights), workers)
        shutil.rmtree(self.layout.shards, ignore_errors=True)
        return self._done()

    def _build(
        self, plan: Plan | None, requested: Mapping[str, Any], annotators: Mapping[str, Annotator], workers: int
    ) -> None:
        params = self.options.params
        made = [describe(column, one, params.get(one.name, {})) for column, one in annotators.items()]
        if plan:
            check_config(plan, {"annotators": made})
        self.plan = plan or self._plan(
            {
                "condprep": __version__,
                "requested": requested,
                "annotators": made,
                "batch_size": self._batch_size(annotators),
            }
        )
        kinds = self._columns(annotators)
        self._write_shards(annotators, arrow_schema(kinds), workers)
        self._finish(kinds)

    def _columns(self, annotators: Mapping[str, Annotator]) -> dict[str, pa.DataType]:
        further = {
            further_column(column, annotator.name, name): kind
            for column, annotator in annotators.items()
            for name, kind in annotator.columns.items()
        }
        base = self.base.columns if self.base else None
        return columns(list(annotators), further, captions=self.options.captions, base=base)

    def _done(self) -> Counts:
        """The counts of a finished dataset. Raises DatasetError where a file of it is missing."""
        counts = Counts.load(self.layout.done)
        for file in counts.files:
            if not (self.layout.root / file["name"]).exists():
                raise DatasetError(f"{self.layout.root / file['name']} is gone; start afresh with --overwrite")
        return counts

    def _load(self, plan: Plan | None, device: str, weights: Weights) -> dict[str, Annotator]:
        """column -> annotator; a resumed build loads the very variants with which it was begun."""
        if isinstance(self.source, PairedSource):
            from condprep.building.import_maps import imported  # and with it the checks, which no other build needs

            return {self.options.condition: imported(self.source.pairs, self.options.condition_kind)}
        loaded = {}
        for number, (text, column) in enumerate(self.options.columns().items()):
            if plan:
                text = as_begun(text, plan.config["annotators"][number])
            params = self.options.params.get(text.partition(":")[0])
            loaded[column] = load_annotator(text, device=device, params=params, weights=weights)
        return loaded

    def _batch_size(self, annotators: Mapping[str, Annotator]) -> int:
        """Pictures of 512 x 512 px a call: the annotators' own wish, halved until a GPU has the memory for it.

        It is part of the plan: rounding may differ from batch to batch, and a resumed build must give the same bytes.
        """
        wanted = self.options.batch_size or max(annotator.batch_size for annotator in annotators.values())
        on_gpu = [annotator for annotator in annotators.values() if annotator.device != "cpu"]
        return fitting_batch(on_gpu, wanted)

    def _plan(self, config: Mapping[str, Any]) -> Plan:
        def seen(inputs: int) -> None:
            self.progress(Progress("list", inputs, None))

        self.layout.clear()
        plan = make_plan(self.layout.private, self.source, config, self.options.shard_rows, seen)
        if not plan.inputs:
            self.layout.clear()
            raise SourceError("the source holds no pictures; give a folder, tar, parquet or dataset that does")
        return plan

    def _write_shards(self, annotators: Mapping[str, Annotator], schema: pa.Schema, workers: int) -> None:
        pending = [shard for shard in range(self.plan.shards) if not self.layout.shard(shard).exists()]
        self.resumed = done = self.plan.inputs - sum(map(self.plan.rows, pending))
        pipeline = Pipeline(
            self.source, self.options, annotators, batch_size=self.plan.config["batch_size"], workers=workers
        )
        rejects = 0
        with closing(pipeline.run(self._work(pending))) as outcomes:
            for shard, of_shard in groupby(outcomes, lambda step: step[0].shard):
                writer = ShardWriter(
                    self.layout.shard(shard), schema, f".{self.options.format}", self.options.shard_bytes
                )
                with writer:
                    for _, outcome in of_shard:
                        writer.add(outcome)
                        done, rejects = done + 1, rejects + isinstance(outcome, Reject)
                        self.progress(Progress("build", done, self.plan.inputs, rejects))

    def _work(self, shards: list[int]) -> Iterator[Work]:
        numbers = count()
        for shard in shards:
            for entry in self.plan.entries(shard):
                yield Work(next(numbers), shard, entry)

    def _finish(self, kinds: Mapping[str, pa.DataType]) -> None:
        """Final names, what `datasets` reads, the card, and `done.json` last."""
        self.progress(Progress("finish", self.plan.inputs, self.plan.inputs))
        counts = [Counts.load(self.layout.shard(shard) / "counts.json") for shard in range(self.plan.shards)]
        rejects = self.base.rejects if self.base else b""
        total = finish(self.layout, counts, datasets_features(kinds), self.options.format, self.plan.id, rejects)
        if total.rows:
            provenance = self._provenance(total)
            write_card(self.layout, self.base.merge(provenance) if self.base else provenance)
        commit_json(self.layout.done, vars(total))

    def _provenance(self, total: Counts) -> dict[str, Any]:
        options = self.options
        return {
            "condprep": __version__,
            "annotators": self.plan.config["annotators"],
            "geometry": {"resolution": options.resolution, "fit": options.fit, "max_upscale": options.max_upscale},
            "source": self.plan.config["requested"]["source"],
            "format": options.format,
            "counts": {"inputs": self.plan.inputs} | {k: v for k, v in vars(total).items() if k != "files"},
        }


def build_result(path: Path, plan: Plan, counts: Counts, resumed: int, seconds: float) -> BuildResult:
    return BuildResult(
        path=path,
        inputs=plan.inputs,
        rows=dict(counts.rows),
        rejects=dict(counts.rejects),
        bytes=counts.bytes,
        enlarged=counts.enlarged,
        untouched=counts.untouched,
        without_caption=counts.without_caption,
        annotators=plan.config["annotators"],
        resumed=resumed,
        seconds=seconds,
    )


def describe(column: str, annotator: Annotator, params: Mapping[str, Any]) -> dict[str, Any]:
    """An annotator's provenance, as it is recorded in the plan and the dataset; params: what the user set."""
    names = {"column": column, "annotator": annotator.name, "variant": annotator.variant, "params": dict(params)}
    return names | dict(annotator.provenance)


def _check_rejects(result: BuildResult, limit: float | None) -> None:
    rejected = sum(result.rejects.values())
    if not result.rows.get("train"):
        reasons = ", ".join(f"{reason} ({n})" for reason, n in Counter(result.rejects).most_common(3))
        raise BuildFailed(f"none of {result.inputs} inputs became a row of the training split: {reasons}", result)
    if limit is not None and rejected > limit * result.inputs:
        share = rejected / result.inputs
        raise BuildFailed(
            f"{rejected} of {result.inputs} inputs ({share:.1%}) were rejected, more than {limit:.1%}", result
        )
