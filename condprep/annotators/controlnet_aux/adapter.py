"""Detectors of controlnet_aux behind condprep's protocol: a picture at a time, at the picture's own size.

controlnet_aux rounds sides to multiples of 64 and resizes its maps. At a picture whose sides are such multiples, asked
for the resolution that is its short side, both are the identity: so pictures are padded to that and maps cropped back.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.controlnet_aux.builders import build_detector
from condprep.annotators.controlnet_aux.detectors import DETECTORS, AuxDetector
from condprep.annotators.gridded import PLENTY
from condprep.annotators.padding import pad_to_grid
from condprep.annotators.weighing import twin
from condprep.errors import AnnotatorError, Rejected, WeightsError
from condprep.runtime.fork import Lock
from condprep.types import Maps
from condprep.weights.find import WeightFile, Weights

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

REQUIREMENT = "controlnet-aux==0.0.10"  # the extra `aux`
RESOLUTIONS = ("detect_resolution", "image_resolution")  # arguments that a detector may have

_numpy_random = Lock()


class Aux(BaseAnnotator):
    """One detector of controlnet_aux."""

    name = "aux"
    batch_size = 4  # several, so that the thread of the networks calls it and not the workers, which would wait in turn
    binary = False
    columns: Mapping[str, pa.DataType] = {}

    def __init__(self, detector: Any, variant: str, *, files: Sequence[WeightFile], device: str) -> None:
        """detector: an instance of the class that DETECTORS[variant] names, on the device."""
        self.detector, self.variant, self.device = detector, variant, device
        self.how = DETECTORS[variant]
        self._resolutions = [name for name in RESOLUTIONS if name in signature(detector.__call__).parameters]
        self.provenance: Mapping[str, Any] = {
            "parameters": {"controlnet_aux": version("controlnet_aux"), **self.how.options},
            "weights": {file.name: file.sha256 for file in files},
            "licence": self.how.licence,
            "commercial": self.how.commercial,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1 or 3, H, W) uint8, as controlnet_aux makes them of the padded pictures.

        Raises Rejected for pictures that are too small for the detector, AnnotatorError if it returns another size or
        type than it was given.
        """
        height, width = rgb.shape[-2:]
        if max(height, width) < self.how.least:
            needed = f"aux:{self.variant} needs a long side of at least {self.how.least} px"
            reason = f"{needed}, this one has {max(height, width)} px"
            raise Rejected("annotate", reason, code="annotator-rejected")
        pictures = pad_to_grid(rgb).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        maps = np.stack([self._map(picture, key) for picture, key in zip(pictures, keys, strict=True)])
        return Maps(torch.from_numpy(maps).permute(0, 3, 1, 2)[..., :height, :width].to(rgb.device))

    def _map(self, picture: np.ndarray, key: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB, sides multiples of the grid -> (H, W, C) uint8."""
        resolution = dict.fromkeys(self._resolutions, min(picture.shape[:2]))
        with seeded(key):
            found: np.ndarray = self.detector(picture, output_type="np", **resolution, **self.how.options)
        if found.shape != picture.shape or found.dtype != np.uint8:
            raise AnnotatorError(
                f"aux:{self.variant} returned a map {found.shape} {found.dtype} for a picture {picture.shape} uint8: "
                f"controlnet_aux {version('controlnet_aux')} is not what condprep knows; pip install {REQUIREMENT}"
            )
        return found[..., : self.how.channels]


class AuxOfWhole(Aux):
    """One whose network sees all of a picture at its own size: what it needs grows with it."""

    plenty = PLENTY

    def weigh(self, rgb: Tensor) -> object:
        """What the network answers; what is made of it on the host takes less."""
        return twin(getattr(self.detector, self.how.whole), rgb)(pad_to_grid(rgb).contiguous().float())


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """numpy's global generator, from which controlnet_aux draws, seeded by the key; afterwards as it was."""
    with _numpy_random:
        before = np.random.get_state()
        np.random.seed(int(key[:8], 16))
        try:
            yield
        finally:
            np.random.set_state(before)


def load(variant: str, params: None, *, device: str, weights: Weights) -> Aux:
    """The detector DETECTORS[variant].

    Raises AnnotatorError where a package is missing, WeightsUnavailable or WeightsError where weights are missing,
    damaged, of another model, or would run code.
    """
    how = DETECTORS[variant]
    _require(variant, how)
    files = {name: weights.get(name) for name in how.weights}
    with _quiet(), torch.random.fork_rng(devices=[]):  # its networks begin at random
        detector = _build(getattr(_import(variant), how.cls), how, files, device)
    warnings.filterwarnings("ignore", module=r"controlnet_aux\.")  # when it is called, by any thread
    return (AuxOfWhole if how.whole else Aux)(detector, variant, files=list(files.values()), device=device)


def _require(variant: str, how: AuxDetector) -> None:
    for requirement in filter(None, (REQUIREMENT, how.needs)):
        if find_spec(requirement.partition("==")[0].replace("-", "_")) is None:
            raise AnnotatorError(f"aux:{variant} needs a package that is not installed: pip install {requirement}")


def _import(variant: str) -> ModuleType:
    try:
        import controlnet_aux
    except Exception as error:  # it runs code of mediapipe and others, of any version, while it is imported
        raise AnnotatorError(
            f"aux:{variant}: controlnet_aux cannot be imported ({type(error).__name__}: {error}); "
            f"pip install {REQUIREMENT} and the versions that it asks for"
        ) from error
    return controlnet_aux  # type: ignore[no-any-return]


def _build(cls: Any, how: AuxDetector, files: Mapping[str, WeightFile], device: str) -> Any:
    try:
        return build_detector(cls, how, files, device)
    except (WeightsError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # KeyError, RuntimeError, AttributeError: whatever its code meets in a foreign file
        if not files:
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{', '.join(str(file.path) for file in files.values())}: a checkpoint of another model than "
            f"controlnet_aux's {cls.__name__} ({first}); fetch it again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """controlnet_aux prints and warns a page while it is loaded."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
