"""normal:OWNER/MODEL: surface normals by a model of transformers (TIPS 2, Sapiens 2), a batch at a time, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.precision import autocast
from condprep.annotators.pretrained import Pretrained, prepared, transformers
from condprep.annotators.weighing import twin
from condprep.errors import AnnotatorError, Rejected
from condprep.types import Maps

if TYPE_CHECKING:
    import pyarrow as pa

NEEDS = (
    "model of normals of transformers (AutoModelForNormalEstimation: TIPS 2, Sapiens 2): it needs config.json, "
    "preprocessor_config.json and model.safetensors; one of diffusers (MarigoldNormalsPipeline) needs model_index.json"
)
Axes = Literal["auto", "left-up-viewer", "right-up-viewer", "right-down-viewer", "right-down-away"]
# Model types of transformers whose axes are known, each with its source.
KNOWN: Mapping[str, Axes] = {
    # Rooms with their normals in the authors' own notebook: floors green, what looks left red, what looks right without red.
    "tipsv2_dpt": "left-up-viewer",  # github.com/google-deepmind/tips, pytorch/TIPS_decoder_inference.ipynb
}


class EstimatedNormal(BaseAnnotator):
    """Surface normals in ControlNet 1.1's colours: red is left, green is up, blue is towards the viewer. Three channels."""

    name = "normal"
    binary = False
    plenty = 0  # it resizes pictures, small ones too

    def __init__(self, named: Pretrained, *, device: str, precision: str, axes: Axes) -> None:
        package = transformers(named.door, named.variant)
        if not hasattr(package, "AutoModelForNormalEstimation"):
            raise AnnotatorError(
                f"{named} needs a newer transformers than {package.__version__}: pip install -U transformers"
            )
        self.processor = named.load(package.AutoImageProcessor.from_pretrained, NEEDS)
        self.model = named.network(package.AutoModelForNormalEstimation, NEEDS).to(device)
        used = _axes(named, self.model.config.model_type, axes)
        self._turn = torch.tensor(turn(used), device=device).view(1, 3, 1, 1)
        self.variant, self.device, self.precision = named.variant, device, precision
        self.batch_size = 2 if device == "cpu" else 8
        self.columns: Mapping[str, pa.DataType] = {}
        record = named.provenance(getattr(self.model.config, "_commit_hash", None))
        self.provenance: Mapping[str, Any] = {"parameters": {"precision": precision, "axes": used}, **record}

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8: 127.5 + 127.5 n.

        Raises Rejected for pictures so long that their short side would vanish at the size that the model works at.
        """
        return Maps(self._maps(self.model, rgb))

    def weigh(self, rgb: Tensor) -> Tensor:
        """The map."""
        return self._maps(twin(self.model, rgb), rgb)

    def _maps(self, model: Any, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        if getattr(self.processor, "do_pad", False):
            self._check(height, width)
        inputs = prepared(self.processor, rgb)
        with autocast(self.precision, self.device):
            answer = model(**inputs)
        post = self.processor.post_process_normal_estimation
        # What pads must know the picture's own size, to take the border away again.
        known = "source_sizes" if "source_sizes" in signature(post).parameters else "target_sizes"
        found = post(SimpleNamespace(normals=answer.normals.float()), **{known: [(height, width)] * len(rgb)})
        normals = F.normalize(torch.stack([one["normals"] for one in found]), dim=1)  # enlarging made them shorter
        return (normals * self._turn * 127.5 + 127.5).clamp(0, 255).byte()

    def _check(self, height: int, width: int) -> None:
        size = self.processor.size
        scale = min(size["height"] / height, size["width"] / width)
        if min(height, width) * scale < 1:
            reason = f"{self.name}:{self.variant} sees {size['width']} x {size['height']} px; {width} x {height} has no short side there"
            raise Rejected("annotate", reason, code="annotator-rejected")


def turn(axes: Axes) -> tuple[float, float, float]:
    """Factors of x, y and z that make them left, up and towards the viewer."""
    x, y, z = axes.split("-")
    return 1.0 if x == "left" else -1.0, 1.0 if y == "up" else -1.0, 1.0 if z == "viewer" else -1.0


def _axes(named: Pretrained, kind: str, asked: Axes) -> Axes:
    found = KNOWN.get(kind, "auto") if asked == "auto" else asked
    if found == "auto":
        raise AnnotatorError(
            f"{named} is a {kind}, of which it is not known which way x, y and z of its normals point. Look at what it makes of "
            "a room or a ball, and say it: --set normal.axes=right-up-viewer (or left-up-viewer, right-down-viewer, "
            "right-down-away); it is recorded"
        )
    return found
