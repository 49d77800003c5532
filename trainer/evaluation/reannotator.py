"""The annotator that made a dataset's maps, asked again: what is found in a picture that was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from condprep.annotators.batches import as_batch
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.openpose.keypoints import Body, bodies
from condprep.annotators.protocol import Annotator, full_name
from condprep.annotators.recorded import Recorded
from condprep.annotators.registry import load_annotator
from condprep.annotators.runner import Runner
from condprep.errors import CondprepError, Rejected
from condprep.images.decode import Pixels
from condprep.runtime.concurrency import group
from condprep.types import IMPORTED
from trainer.errors import DataError
from trainer.evaluation.scores import Condition
from trainer.inference.export import made_by

if TYPE_CHECKING:
    from condprep.weights.find import Weights

AT_ONCE = 8 * 512 * 512  # pixels of a batch of the annotator


class Reannotator:
    """The annotator that made a dataset's maps, asked again."""

    def __init__(self, annotator: Annotator) -> None:
        self.runner = Runner(annotator)

    @property
    def kind(self) -> str | None:
        """Of the maps, one of condprep.types.CONDITION_KINDS; None: not known."""
        return kind_of_annotator(self.runner.annotator.name, self.runner.annotator.variant)

    @property
    def label(self) -> str:
        return full_name(self.runner.annotator.name, self.runner.annotator.variant)

    def __call__(self, pictures: Sequence[Pixels], keys: Sequence[str]) -> list[Condition]:
        """Pictures (H, W, 3) uint8 and the keys of their rows, from which random variants draw, -> their maps.

        Raises CondprepError for a picture on which the annotator fails.
        """
        found: dict[int, Condition] = {}
        numbered = iter(enumerate(pictures))
        for batch in group(numbered, lambda p: p[1].shape, lambda p: p[1].size // 3, AT_ONCE, 2 * AT_ONCE):
            results = self.runner(as_batch([rgb for _, rgb in batch]), [keys[number] for number, _ in batch])
            for (number, _), result in zip(batch, results):
                if isinstance(result, Rejected):
                    raise CondprepError(f"row {keys[number]}: the generated picture cannot be annotated: {result}")
                found[number] = Condition(result[0], _people(result[1]))
        return [found[number] for number in range(len(pictures))]


def _people(columns: dict[str, Any]) -> list[Body] | None:
    return bodies(columns["keypoints"]) if "keypoints" in columns else None


def reannotator(
    dataset: str,
    column: str,
    instead: tuple[str, Mapping[str, Any]] | None,
    device: str,
    weights: Weights | None = None,
) -> Reannotator:
    """The annotator of a dataset's column: same variant, parameters and weights. instead: another, with parameters.

    Raises DataError where the dataset does not say what made its maps, AnnotatorError where it cannot be had exactly.
    """
    if instead:
        return Reannotator(load_annotator(instead[0], device=device, params=dict(instead[1]), weights=weights))
    recorded = _recorded(dataset, column)
    if recorded is None or recorded.name == IMPORTED:
        raise DataError(
            f"{dataset} does not say which annotator made its {column!r}, so pictures cannot be annotated alike;"
            " `python -m trainer evaluate --annotator NAME` can name it"
        )
    remedies = {"trust_by": "`python -m trainer evaluate` --annotator", "weights_by": "--annotator-weights"}
    return Reannotator(recorded.load(trust=(), device=device, weights=weights, **remedies))


def _recorded(dataset: str, column: str) -> Recorded | None:
    """The annotator that a dataset names for a column; None where it names none, or its record is damaged."""
    made = made_by(dataset, column)
    with suppress(KeyError, TypeError, ValueError):
        return made and Recorded.of(dataset, made[0])
    return None
