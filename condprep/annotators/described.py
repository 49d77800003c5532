"""A loaded annotator as another process loads the same: what it pickles as, and what it is hashed by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condprep import __version__
from condprep.annotators.protocol import Annotator, full_name
from condprep.errors import AnnotatorError

if TYPE_CHECKING:
    from condprep.weights.find import Weights


@dataclass(frozen=True)
class Described:
    """What to load. Two that are equal have the same `repr`, which holds no address."""

    name: str  # "hed:tensor-safe": the variant that was really loaded
    device: str  # as it was asked for: "auto" may be another one elsewhere
    params: Mapping[str, Any]
    weights: Weights  # where they are looked for
    sha256: Mapping[str, str]  # of each weights file
    version: str = __version__

    @classmethod
    def of(cls, annotator: Annotator, device: str, params: Mapping[str, Any], weights: Weights) -> Described:
        name = full_name(annotator.name, annotator.variant)
        return cls(name, device, dict(sorted(params.items())), weights, dict(annotator.provenance["weights"]))

    def check_version(self) -> None:
        """Raises AnnotatorError where another condprep described it: its maps might be others."""
        if self.version != __version__:
            raise AnnotatorError(
                f"{self.name} was pickled by condprep {self.version}, this process has {__version__}: "
                f"pip install condprep=={self.version} wherever it is used"
            )

    def check_weights(self, found: Mapping[str, str]) -> None:
        """Raises AnnotatorError where the weights that were found here are not those that were described."""
        if dict(found) != self.sha256:
            raise AnnotatorError(
                f"{self.name} was pickled with the weights {dict(self.sha256)}, here are {dict(found)}: give every "
                "process the same files, with weights=condprep.Weights(FOLDER) or CONDPREP_WEIGHTS"
            )
