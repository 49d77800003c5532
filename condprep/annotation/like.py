"""The annotators and the geometry that a dataset, or a folder that the trainer wrote, has on record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import Recorded
from condprep.building.options import parse_options
from condprep.dataset.remote import here
from condprep.errors import UsageError
from condprep.images.geometry import Geometry
from condprep.runtime.files import read_json
from condprep.types import IMPORTED

if TYPE_CHECKING:
    from condprep.weights.find import Weights


def load_like(
    path: str | Path, device: str, weights: Weights | None, trust: Sequence[str] = ()
) -> tuple[Geometry, dict[str, Annotator]]:
    """The geometry and the annotators (by column) that made a dataset, or that on which a ControlNet was trained.

    trust: annotators that it may name beside condprep's own. Raises where they cannot be had exactly.
    """
    geometry, wanted = read_like(path)
    return geometry, {column: one.load(trust=trust, device=device, weights=weights) for column, one in wanted.items()}


def read_like(path: str | Path) -> tuple[Geometry, dict[str, Recorded]]:
    """The same, not loaded yet. Raises UsageError where the record is missing, damaged, or names no annotator."""
    folder = here(path)
    stored = folder / ".condprep" / "provenance.json"
    if not stored.exists() and (trained := folder / "condition.json").exists():  # a folder of the trainer's
        stored = trained
    if not stored.exists():
        raise UsageError(f"{path} is no dataset made by condprep: {stored} is missing")
    try:
        provenance = read_json(stored)
        recorded = {"decode": "exact", **provenance["geometry"]}  # which older datasets do not say
        geometry = parse_options((), **recorded).geometry  # within the bounds that a build has
        wanted = {str(one["column"]): Recorded.of(str(path), one) for one in provenance["annotators"]}
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{stored} is damaged ({type(error).__name__}: {error}); build the dataset again") from error
    if not wanted:
        raise UsageError(
            f"{path} was trained on conditions that condprep did not make; make them as they were made then"
        )
    if any(one.name == IMPORTED for one in wanted.values()):
        raise UsageError(
            f"the maps of {path} were imported, so there is no annotator to repeat; name the one that made them with "
            "--annotator"
        )
    return geometry, wanted
