"""What `condprep curate --fix` repairs: maps are made again by the annotator that made them, EXIF turns are baked in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from condprep.annotation.like import load_like
from condprep.annotators.runner import Runner
from condprep.curation.drops import ALL
from condprep.curation.rows import Records
from condprep.dataset.columns import further_column
from condprep.dataset.layout import Layout
from condprep.dataset.records import primary_column
from condprep.errors import Rejected, UsageError
from condprep.images.decode import Header, decode, header, upright
from condprep.images.encode import encode_map, encode_picture
from condprep.verification.findings import Finding
from condprep.weights.find import Weights

# repair -> the rules whose findings it answers
REPAIRS: Mapping[str, Sequence[tuple[str, str]]] = {
    "turned upright": [("structure", "orientation")],
    "map made again": [
        *(("alignment", ALL), ("structure", "size"), ("structure", "aspect")),
        *(("condition", rule) for rule in ("copy", "polarity", "grey-levels", "was-binary", "mixed-colours")),
        *(("condition", rule) for rule in ("kind", "odd-kind")),
    ],
}
UPRIGHT, AGAIN = REPAIRS


def repair_of(finding: Finding, annotated: bool) -> str | None:
    """The repair that answers a finding; annotated: whether the maps can be made again."""
    for repair, rules in REPAIRS.items():
        if any(check == finding.check and rule in (ALL, finding.rule) for check, rule in rules):
            return repair if annotated or repair != AGAIN else None
    return None


class Repairer:
    """Repairs rows, one at a time. The annotators are loaded when the first map is made again."""

    def __init__(
        self, dataset: Path, image: str, condition: str, device: str, weights: Weights, trust: Sequence[str] = ()
    ) -> None:
        """image, condition: the columns. trust: annotators that the dataset may name beside condprep's own."""
        self.dataset, self.image, self.condition = dataset, image, condition
        self.device, self.weights, self.trust = device, weights, trust

    def __call__(self, values: Mapping[str, Any], repairs: Sequence[str]) -> dict[str, Any]:
        """The row's columns, repaired. Raises Rejected where that cannot be done."""
        repaired = dict(values)
        if UPRIGHT in repairs:
            repaired |= self._upright(repaired, AGAIN in repairs)
        if AGAIN in repairs:
            repaired |= self._reannotate(repaired)
        return repaired

    def _reannotate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The maps of all annotators and what they return beside; of columns that the row has."""
        rgb = decode(values[self.image]["bytes"]).rgb
        made: dict[str, Any] = {}
        for number, (column, runner) in enumerate(self._runners.items()):
            pixels, further = runner.drawn(rgb, str(values["key"]))
            encoded = {"bytes": encode_map(pixels, runner.annotator.binary), "path": None}
            made |= {further_column(column, runner.annotator.name, name): value for name, value in further.items()}
            made |= {column: encoded}
            if number == 0:
                made |= {"conditioning_image": encoded, "empty": not pixels.any()}
        return {name: value for name, value in made.items() if name in values}

    @cached_property
    def _runners(self) -> dict[str, Runner]:
        """By column, that of `conditioning_image` first."""
        geometry, annotators = load_like(self.dataset, self.device, self.weights, self.trust)
        if geometry.fit == "pad":
            raise UsageError(
                f"{self.dataset} was built with --fit pad: its black borders would be annotated; leave out --fix"
            )
        records = Records(Layout(self.dataset))
        first = primary_column(records.provenance or {"annotators": []}, records.options) or next(iter(annotators))
        return {column: Runner(annotators[column]) for column in sorted(annotators, key=lambda one: one != first)}

    def _upright(self, values: Mapping[str, Any], reannotated: bool) -> dict[str, Any]:
        """Both as they are seen. A map that was made from a picture as it is stored is turned with it."""
        image, map_ = (values[column]["bytes"] for column in (self.image, self.condition))
        stored, turn = header(image), header(image).orientation
        rgb, pixels, how = decode(image).rgb, decode(map_).rgb, header(map_)
        if not reannotated and how.orientation == 1:
            if stored.size == rgb.shape[:2] or pixels.shape[:2] not in (stored.size, rgb.shape[:2]):
                reason = "it cannot be told whether the map was made before the picture is turned or after"
                raise Rejected("curate", reason, code="left-out")
            if pixels.shape[:2] == stored.size:
                pixels = upright(pixels, turn)
        return {
            self.image: {"bytes": _encoded(rgb, stored), "path": None} if turn != 1 else values[self.image],
            self.condition: {"bytes": _encoded_map(pixels, how), "path": None},
        }


def _encoded(rgb: np.ndarray, stored: Header) -> bytes:
    return encode_picture(rgb, "jpeg" if stored.format == "JPEG" else "png")


def _encoded_map(pixels: np.ndarray, stored: Header) -> bytes:
    grey = stored.mode in ("1", "L")
    return encode_map(np.asarray(cv2.extractChannel(pixels, 1) if grey else pixels), stored.mode == "1")
