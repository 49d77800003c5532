"""Annotators that a record names: that of a dataset, of a ControlNet's folder, or of a build that was begun.

Records come with datasets, and are no more trusted than their rows: one can name condprep's own annotators, whose weights
are pinned, and no others; whoever trusts another one says so by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condprep.annotators.builtin import BUILTIN
from condprep.annotators.protocol import Annotator, full_name
from condprep.annotators.registry import load_annotator, parse
from condprep.errors import AnnotatorError

if TYPE_CHECKING:
    from condprep.weights.find import Weights


@dataclass(frozen=True)
class Recorded:
    """What a record says of an annotator."""

    where: str  # the dataset or folder, for messages
    name: str  # "openpose:blaze"
    params: Mapping[str, Any]  # as its user set them
    weights: Mapping[str, str]  # file -> sha256

    @classmethod
    def of(cls, where: str, record: Mapping[str, Any]) -> Recorded:
        """Raises KeyError, TypeError or ValueError for a record that is none."""
        name = full_name(record["annotator"], record["variant"])
        return cls(where, name, dict(record["params"]), dict(record["weights"]))

    def load(
        self,
        *,
        trust: Collection[str],
        device: str,
        weights: Weights | None,
        trust_by: str = "--trust-annotator",
        weights_by: str = "--weights",
    ) -> Annotator:
        """The very annotator, with the same parameters and weights. trust: names beside those of condprep itself.

        Raises AnnotatorError for one that is not trusted, before anything of it is imported or fetched, and where it
        would compute with other weights. trust_by, weights_by: options that remedy the two.
        """
        parse(self.name)  # raises for a name that nobody has, which no trust would mend
        if not is_own(self.name) and self.name not in ((trust,) if isinstance(trust, str) else trust):
            raise AnnotatorError(
                f"{self.where} names the annotator {self.name}, which is none of condprep's own with pinned weights; "
                f"where you trust it, say {trust_by} {self.name}"
            )
        annotator = load_annotator(self.name, device=device, params=self.params, weights=weights)
        here = annotator.provenance["weights"]
        if {file: here.get(file) for file in self.weights} != self.weights:  # older records have weights alone
            raise AnnotatorError(
                f"{self.name}: {self.where} was made with the weights {dict(self.weights)}, here are {here}; with other "
                f"weights it is another annotator: point {weights_by} at the same files"
            )
        return annotator


def is_own(name: str) -> bool:
    """Whether it is built in, and one of the listed variants: no model's name, no folder, no plug-in."""
    base, _, variant = name.partition(":")
    return any(name in spec.former or (base == spec.name and variant in ("", *spec.variants)) for spec in BUILTIN)


def as_begun(name: str, record: Mapping[str, Any]) -> str:
    """`name` with the variant for which it stood when a build began, where it has none: the record chooses nothing else."""
    spec, variant = parse(name)
    begun = record.get("variant")
    listed = isinstance(begun, str) and begun != "" and begun in spec.variants
    return f"{spec.name}:{begun}" if listed and not variant else name
