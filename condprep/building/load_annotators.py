"""The annotators of a build: those that the options name, or for a resumed build the very variants of its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from condprep.annotators.batches import REFERENCE_SIDE, fitting_batch
from condprep.annotators.memory import SHARE, Allowance, device_memory
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import as_begun
from condprep.annotators.registry import load_annotator
from condprep.building.machine import describe_machine
from condprep.building.options import BuildOptions
from condprep.building.paired_source import PairedSource
from condprep.dataset.columns import columns, further_column
from condprep.errors import Rejected
from condprep.sources.base import Source
from condprep.sources.chosen import whole
from condprep.weights.find import Weights

Begun = Sequence[Mapping[str, Any]]  # what a plan has on record of the annotators of a build


@dataclass(frozen=True)
class Loaded:
    """The annotators of a build by column, and what a plan records of them."""

    annotators: Mapping[str, Annotator]  # none where they are in another process
    described: Begun
    machine: Mapping[str, str]
    batch_size: int
    network_memory: int | None  # bytes that a network may take for the pictures of a call; None: there is no network
    further: Mapping[str, Mapping[str, pa.DataType]]  # column -> what its annotator returns beside maps

    def told(self) -> Loaded:
        """The same for another process."""
        return replace(self, annotators={})

    def columns(
        self, options: BuildOptions, existing: Mapping[str, pa.DataType] | None = None
    ) -> dict[str, pa.DataType]:
        """The columns of the dataset, in order. existing: those of the dataset to which these are added."""
        names = {one["column"]: one["annotator"] for one in self.described}
        further = {
            further_column(column, names[column], name): kind
            for column, kinds in self.further.items()
            for name, kind in kinds.items()
        }
        return columns(list(self.further), further, captions=options.captions, base=existing)


def load(source: Source, options: BuildOptions, begun: Begun | None, device: str, weights: Weights) -> Loaded:
    """begun: of the build that is resumed."""
    annotators = load_annotators(source, options, begun, device, weights)
    memory = network_memory(annotators, options)
    return Loaded(
        annotators,
        describe(annotators, options),
        describe_machine(annotators.values()),
        batch_size(annotators, options, memory),
        memory,
        {column: dict(annotator.columns) for column, annotator in annotators.items()},
    )


def load_annotators(
    source: Source, options: BuildOptions, begun: Begun | None, device: str, weights: Weights
) -> dict[str, Annotator]:
    """column -> annotator; begun: of the build that is resumed."""
    source = whole(source)
    if isinstance(source, PairedSource):
        from condprep.building.import_maps import imported  # and with it the checks, which no other build needs

        return {options.condition: imported(source.pairs, options.condition_kind, weights.say)}
    loaded = {}
    for number, (text, column) in enumerate(options.columns().items()):
        if begun:
            text = as_begun(text, begun[number])
        params = options.params.get(text.partition(":")[0])
        loaded[column] = load_annotator(text, device=device, params=params, weights=weights)
    return loaded


def describe(annotators: Mapping[str, Annotator], options: BuildOptions) -> list[dict[str, Any]]:
    """The annotators' provenance, as it is recorded in the plan and the dataset."""
    return [
        {"column": column, "annotator": one.name, "variant": one.variant, "params": options.params.get(one.name, {})}
        | dict(one.provenance)
        for column, one in annotators.items()
    ]


def network_memory(annotators: Mapping[str, Annotator], options: BuildOptions) -> int | None:
    """Bytes that a network may take for the pictures of a call: what the user says, or half of the device's memory.

    It is part of the plan: a picture is a reject or none whatever machine goes on, and however much memory others take just then.
    """
    devices = {annotator.device for annotator in annotators.values() if annotator.batch_size > 1}
    return (options.network_memory or min(map(device_memory, devices)) // SHARE) if devices else None


def batch_size(annotators: Mapping[str, Annotator], options: BuildOptions, memory: int | None) -> int:
    """Pictures of 512 x 512 px a call: the annotators' own wish, as far as `memory` goes, halved until a GPU has room for it.

    It is part of the plan: rounding may differ from batch to batch, and a resumed build must give the same bytes.
    """
    wanted = options.batch_size or max(annotator.batch_size for annotator in annotators.values())
    for annotator in annotators.values():
        try:
            wanted = Allowance(annotator, memory, memory).together(wanted, REFERENCE_SIDE, REFERENCE_SIDE)
        except Rejected:  # pictures may be smaller
            wanted = 1
    on_gpu = [annotator for annotator in annotators.values() if annotator.device != "cpu"]
    return fitting_batch(on_gpu, wanted)
