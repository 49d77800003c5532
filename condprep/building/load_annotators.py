"""The annotators of a build: those that the options name, or for a resumed build the very variants of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from condprep.annotators.batches import fitting_batch
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import as_begun
from condprep.annotators.registry import load_annotator
from condprep.building.options import BuildOptions
from condprep.building.paired_source import PairedSource
from condprep.building.plan import Plan
from condprep.sources.base import Source
from condprep.sources.chosen import whole
from condprep.weights.find import Weights


def load_annotators(
    source: Source, options: BuildOptions, plan: Plan | None, device: str, weights: Weights
) -> dict[str, Annotator]:
    """column -> annotator; plan: that of the build that is resumed."""
    source = whole(source)
    if isinstance(source, PairedSource):
        from condprep.building.import_maps import imported  # and with it the checks, which no other build needs

        return {options.condition: imported(source.pairs, options.condition_kind, weights.say)}
    loaded = {}
    for number, (text, column) in enumerate(options.columns().items()):
        if plan:
            text = as_begun(text, plan.config["annotators"][number])
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


def batch_size(annotators: Mapping[str, Annotator], options: BuildOptions) -> int:
    """Pictures of 512 x 512 px a call: the annotators' own wish, halved until a GPU has the memory for it.

    It is part of the plan: rounding may differ from batch to batch, and a resumed build must give the same bytes.
    """
    wanted = options.batch_size or max(annotator.batch_size for annotator in annotators.values())
    on_gpu = [annotator for annotator in annotators.values() if annotator.device != "cpu"]
    return fitting_batch(on_gpu, wanted)
