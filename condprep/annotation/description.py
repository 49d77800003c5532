"""What a session does, in values that another process can be given: which annotators, which geometry, which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from condprep import __version__
from condprep.annotation.like import read_like
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import Recorded
from condprep.annotators.registry import find_weights, load_annotator
from condprep.building.options import parse_options
from condprep.errors import AnnotatorError, UsageError
from condprep.images.geometry import Geometry
from condprep.weights.find import Weights


@dataclass(frozen=True)
class Wanted:
    """An annotator that is asked for by its name, or that a dataset has on record."""

    name: str  # "hed:safe"
    params: Mapping[str, Any]
    recorded: Recorded | None = None

    def load(self, device: str, weights: Weights, trust: Sequence[str]) -> Annotator:
        if self.recorded:
            return self.recorded.load(trust=trust, device=device, weights=weights)
        return load_annotator(self.name, device=device, params=self.params, weights=weights)


@dataclass(frozen=True)
class Description:
    """Of a session. Two that do the same have the same `repr`, which holds no address."""

    geometry: Geometry
    wanted: Mapping[str, Wanted]  # column -> annotator
    device: str  # as it was asked for: "auto" may be another one elsewhere
    weights: Weights  # where they are looked for
    trust: tuple[str, ...]
    workers: int | None
    image: str  # the key of the picture in rows
    found: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)  # column -> weights file -> sha256
    version: str = __version__

    def resolved(self) -> Description:
        """With the sha256 of all weights, so that who has other ones cannot take their place unnoticed."""
        found = {column: find_weights(one.name, self.weights) for column, one in self.wanted.items()}
        return replace(self, found=found)

    def load(self) -> dict[str, Annotator]:
        """The annotators by column. Raises AnnotatorError where another condprep or other weights are here."""
        if self.version != __version__:
            raise AnnotatorError(
                f"a session of condprep {self.version} was handed to condprep {__version__}: "
                "install one version wherever it is used"
            )
        return {column: self._load(column, one) for column, one in self.wanted.items()}

    def _load(self, column: str, wanted: Wanted) -> Annotator:
        annotator = wanted.load(self.device, self.weights, self.trust)
        here: Mapping[str, str] = annotator.provenance["weights"]
        expected = self.found.get(column, {})
        if {file: here.get(file) for file in expected} != expected:
            raise AnnotatorError(
                f"{wanted.name}: the session that was handed over has the weights {dict(expected)}, here are {dict(here)}: "
                "give every process the same files, with weights=condprep.Weights(FOLDER) or CONDPREP_WEIGHTS"
            )
        return annotator


def describe(
    annotators: str | Sequence[str],
    like: str | Path | None,
    params: Mapping[str, Mapping[str, Any]] | None,
    resolution: int | None,
    fit: str | None,
) -> tuple[Geometry, dict[str, Wanted]]:
    """The geometry, and the annotators by column, as `condprep.annotate` is told. Raises UsageError."""
    if bool(annotators) == bool(like):
        raise UsageError("give either annotators (--annotator) or a dataset whose annotators are repeated (--like)")
    if like:
        if params or resolution is not None or fit is not None:
            raise UsageError("--like repeats a dataset's parameters and size; leave out --set, --resolution and --fit")
        geometry, recorded = read_like(like)
        return geometry, {column: Wanted(one.name, one.params, one) for column, one in recorded.items()}
    chosen: dict[str, Any] = {"resolution": 512 if resolution is None else resolution, "fit": fit or "keep"}
    options = parse_options(annotators, params, **chosen)
    return options.geometry, {
        column: Wanted(name, options.params.get(name.partition(":")[0], {}))
        for name, column in options.columns().items()
    }
