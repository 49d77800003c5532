"""From a photograph to what the ControlNet was trained on: the recorded annotator, at the size of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from condprep.annotation.rows import png
from condprep.annotation.session import Session, described
from condprep.annotators.protocol import full_name
from condprep.errors import AnnotatorError, Rejected
from condprep.types import IMPORTED, Reject
from trainer.data.rows import Row
from trainer.data.transform import Transform
from trainer.inference.pipeline import unlike

if TYPE_CHECKING:
    from condprep.weights.find import Weights
    from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class Pair:
    """A photograph as it would have been trained on, and its condition, both RGB and of one size."""

    photograph: Image.Image | None  # None: the condition itself was given
    condition: Image.Image
    note: str | None  # what is odd about the condition


class Conditions:
    """Makes the pair of a photograph. Where condprep did not make the maps of the training, a map is what it takes."""

    def __init__(self, session: Session | None, transform: Transform) -> None:
        self._session, self._transform = session, transform

    @classmethod
    def of(
        cls,
        folder: Path,
        condition: Mapping[str, Any],
        recipe: Recipe,
        *,
        device: str,
        weights: Weights | None,
        trust: Sequence[str],
    ) -> Conditions:
        """Those of a result. condition: its record, of several kinds what it says of one. Raises what `condprep.Session(like=folder)` raises, and loads networks."""
        transform = Transform(recipe.data.resolution, recipe.data.fit, (condition["kind"],))
        if not annotator_name(condition):
            return cls(None, transform)
        column = condition["annotators"][0]["column"]
        whole = Session(like=folder, device=device, weights=weights, trust_annotators=trust, workers=1).description
        session = described(replace(whole, wanted={column: whole.wanted[column]}))
        try:
            session.load()
        except (
            AnnotatorError
        ) as error:  # which names the option of `condprep annotate`; here --weights are the ControlNet's
            raise AnnotatorError(str(error).replace("point --weights at", "point --annotator-weights at")) from None
        return cls(session, transform)

    def __call__(self, data: bytes) -> Pair:
        """data: an encoded picture, whoever sent it. Raises Rejected for one that cannot be used."""
        image = condition = data
        if self._session:
            (made,) = self._session([data])
            if isinstance(made, Reject):
                raise Rejected(made.stage, made.reason, code=made.code)
            (found,) = made.maps.values()
            image, condition = png(made.image), png(found)
        photograph, pixels = self._transform(Row("", image, (condition,), ("",)))
        picture, (kind,) = Image.fromarray(pixels), self._transform.kinds
        return Pair(Image.fromarray(photograph) if self._session else None, picture, kind and unlike(picture, kind))


def annotator_name(condition: Mapping[str, Any]) -> str | None:
    """ "openpose:cmu", of a result's record; None where condprep did not make its maps."""
    made = condition.get("annotators")
    one = made[0] if isinstance(made, list) and made else None
    if not isinstance(one, dict) or one.get("annotator") == IMPORTED:
        return None
    return full_name(str(one.get("annotator")), str(one.get("variant") or ""))
