"""normal:OWNER/MODEL: surface normals by diffusion (Marigold), through the pipeline of diffusers, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.precision import DTYPES, Precision, resolve_precision
from condprep.annotators.pretrained import Pretrained
from condprep.annotators.weighing import twin
from condprep.errors import AnnotatorError, Rejected, WeightsError
from condprep.runtime.fork import Lock
from condprep.types import Maps

if TYPE_CHECKING:
    import pyarrow as pa

NEEDS = "model of normals of diffusers (MarigoldNormalsPipeline): it needs model_index.json and safetensors"
STEPS = 4  # of the diffusion where the model does not say


class DiffusedNormal(BaseAnnotator):
    """Surface normals in ControlNet 1.1's colours: red is left, green is up, blue is towards the viewer. Three channels."""

    name = "normal"
    binary = False
    plenty = 0  # it resizes pictures, small ones too

    def __init__(self, pipe: Any, variant: str, record: Mapping[str, Any], *, device: str, precision: str) -> None:
        """pipe: a MarigoldNormalsPipeline on the device. record: weights, licence, commercial."""
        self.pipe, self.variant, self.device = pipe, variant, device
        self._one = Lock()  # a scheduler knows at which step it is
        self.batch_size = 2 if device == "cpu" else 8
        self.columns: Mapping[str, pa.DataType] = {}
        # A consistency model draws new noise between its steps, of torch's own generator: it is asked for one.
        self.steps = 1 if type(pipe.scheduler).__name__ == "LCMScheduler" else pipe.default_denoising_steps or STEPS
        self.side = pipe.default_processing_resolution or 0
        self.provenance: Mapping[str, Any] = {"parameters": {"precision": precision, "steps": self.steps}, **record}

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8: 127.5 + 127.5 n. The noise that it begins with is the key's.

        Raises Rejected for pictures so long that their short side would vanish at the size that the model works at.
        """
        if self.side and min(rgb.shape[2:]) * self.side < max(rgb.shape[2:]):
            reason = f"{self.name}:{self.variant} sees {self.side} px of the long side; {rgb.shape[3]} x {rgb.shape[2]} has no short one there"
            raise Rejected("annotate", reason, code="annotator-rejected")
        with self._one:
            return Maps(self._maps(self.pipe, rgb, keys, self.steps))

    def weigh(self, rgb: Tensor) -> Tensor:
        """The map after one step: each takes the same memory."""
        return self._maps(_without_numbers(self.pipe, rgb), rgb, ["0" * 64], 1)

    def _maps(self, pipe: Any, rgb: Tensor, keys: Sequence[str], steps: int) -> Tensor:
        found = pipe(
            rgb.to(pipe.dtype) / 255,
            num_inference_steps=steps,
            processing_resolution=self.side,
            batch_size=len(rgb),
            latents=self._noise(rgb.shape[2], rgb.shape[3], keys),
            output_type="pt",
        ).prediction.float()
        turned: Tensor = found * found.new_tensor((-1.0, 1.0, 1.0)).view(1, 3, 1, 1)  # its x is to the right
        return (turned * 127.5 + 127.5).clamp(0, 255).byte()

    def _noise(self, height: int, width: int, keys: Sequence[str]) -> Tensor:
        """As large as the pipeline will want it for pictures of this size; drawn on the CPU, where it is the same everywhere."""
        scale = self.pipe.vae_scale_factor
        if self.side:
            largest = max(height, width)
            height, width = (side * self.side // largest for side in (height, width))
        shape = (self.pipe.vae.config.latent_channels, -(-height // scale), -(-width // scale))
        noise = torch.stack([torch.randn(shape, generator=_generator(key), dtype=torch.float32) for key in keys])
        return noise.to(self.device, self.pipe.dtype)


def _without_numbers(pipe: Any, rgb: Tensor) -> Any:
    """The pipeline for a tensor without numbers: its networks have none either, and nobody asks for them."""
    made, made.image_processor, made.scheduler = (copy(one) for one in (pipe, pipe.image_processor, pipe.scheduler))
    for part in ("unet", "vae", "text_encoder"):
        setattr(made, part, twin(getattr(pipe, part), rgb))
    vars(made.image_processor)["check_image_values_range"] = lambda image: None
    made.scheduler.step = lambda noise, time, latents, **how: SimpleNamespace(prev_sample=latents)
    return made


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(sha256(f"normal {key}".encode()).digest()[:7]))


def load_diffused(named: Pretrained, *, device: str, precision: Precision) -> DiffusedNormal:
    """On a CPU in fp32: the pipeline resizes in its own number format, and torch does that there in no other.

    Raises AnnotatorError where diffusers is missing, or for another precision on a CPU; WeightsError for another pipeline
    than one of normals.
    """
    if device == "cpu" and precision not in ("auto", "fp32"):
        raise AnnotatorError(f"{named} computes in fp32 on a CPU, not in {precision}; leave precision out")
    used = "fp32" if device == "cpu" else resolve_precision(precision, device, "normal")
    try:
        from diffusers import MarigoldNormalsPipeline
    except ImportError as error:
        raise AnnotatorError(f"{named} needs diffusers and transformers: pip install condprep[depth]") from error
    commit = (
        None if named.local else Path(named.load(MarigoldNormalsPipeline.download, NEEDS, use_safetensors=True)).name
    )
    pipe = named.load(MarigoldNormalsPipeline.from_pretrained, NEEDS, use_safetensors=True)
    if pipe.unet.config.in_channels != 2 * pipe.vae.config.latent_channels:
        raise WeightsError(f"{named} is no {NEEDS} (its UNet does not look at a picture)")
    pipe.set_progress_bar_config(disable=True)
    record = named.provenance(commit)
    return DiffusedNormal(pipe.to(device, DTYPES[used]), named.variant, record, device=device, precision=used)
