"""Calling an annotator so that one picture cannot stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from condprep.annotators.batches import as_batch, to_device
from condprep.annotators.protocol import Annotator, Filter
from condprep.errors import AnnotatorError, BuildFailed, CondprepError, Rejected
from condprep.types import Maps

if TYPE_CHECKING:
    from torch import Tensor

Drawn = tuple[np.ndarray, dict[str, Any]]  # a map (H, W) or (H, W, 3) uint8, and the row's further columns
Result = Drawn | Rejected  # or why there is none

HOPELESS = 20  # pictures in a row on which an annotator fails before the run stops: then it is not the pictures


class Runner:
    """An annotator that returns a result for every picture: what fails in a batch is tried in halves, then alone."""

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator
        # One picture (H, W, 3) uint8 RGB and its key -> what is drawn of it, a filter's without a tensor in between.
        # To be called `with guarded()`: it is the annotator's own function, so that nothing lies between a row and it.
        self.draw: Callable[[np.ndarray, str], Drawn] = (
            annotator.picture if isinstance(annotator, Filter) else self._draw_alone
        )
        self._failures = 0

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> list[Result]:
        """(B, 3, H, W) uint8 RGB on any device, B keys -> B results. Raises BuildFailed when nothing works any more."""
        try:
            with self.guarded(len(keys)):
                moved = to_device(rgb, self.annotator.device)
                return [*_split(_checked(self.annotator(moved, keys), self.annotator, rgb))]
        except Rejected as rejected:
            if len(keys) == 1:
                return [rejected]
        half = len(keys) // 2
        return self(rgb[:half], keys[:half]) + self(rgb[half:], keys[half:])

    @contextmanager
    def guarded(self, pictures: int = 1) -> Iterator[None]:
        """What the annotator raises inside is raised as Rejected: it failed on these pictures.

        Errors about more than a picture pass, and too many pictures in a row on which it fails alone are BuildFailed.
        """
        try:
            yield
        except Rejected as rejected:
            failure = rejected
        except CondprepError:
            raise
        except SystemExit as error:  # code of others must not end a build as if it were done
            raise BuildFailed(f"{self.annotator.name} wanted to end the program (SystemExit {error.code})") from error
        except Exception as error:
            reason = f"{self.annotator.name} failed: {_short(error)}"
            failure = Rejected("annotate", reason, code="annotator-failed")
        else:
            self._failures = 0
            return
        self._failures += pictures == 1
        if self._failures >= HOPELESS:
            raise BuildFailed(f"{HOPELESS} pictures in a row could not be annotated; the last one: {failure.reason}")
        raise failure

    def _draw_alone(self, rgb: np.ndarray, key: str) -> Drawn:
        batch = to_device(as_batch([rgb]), self.annotator.device)
        (drawn,) = _split(_checked(self.annotator(batch, [key]), self.annotator, batch))
        return drawn


def _split(maps: Maps) -> list[Drawn]:
    pixels = maps.maps.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    rows = [{name: values[i] for name, values in maps.columns.items()} for i in range(len(pixels))]
    return list(zip(pixels, rows))


def _checked(maps: Maps, annotator: Annotator, rgb: Tensor) -> Maps:
    """Maps that keep the protocol's promise; raises AnnotatorError that names the annotator that breaks it."""
    import torch

    shape, batch = tuple(maps.maps.shape), len(rgb)
    right = shape in ((batch, 1, *rgb.shape[2:]), (batch, 3, *rgb.shape[2:])) and maps.maps.dtype == torch.uint8
    if not right or any(len(values) != batch for values in maps.columns.values()):
        lengths = {name: len(values) for name, values in maps.columns.items()}
        raise AnnotatorError(
            f"annotator {annotator.name!r} returned maps {shape} {maps.maps.dtype} and columns {lengths} for pictures "
            f"{tuple(rgb.shape)}; it must return (B, 1 or 3, H, W) uint8 and B values a column"
        )
    return maps


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
