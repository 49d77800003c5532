"""Depth networks behind one call: pictures in, relative inverse depth of the same size out (larger is nearer)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol
from weakref import WeakValueDictionary, ref

import torch
import torch.nn.functional as F
from torch import Tensor

from condprep.annotators.depth.dpt_hybrid import DptHybrid, load_network
from condprep.annotators.gridded import PLENTY
from condprep.annotators.padding import pad_to_grid
from condprep.annotators.precision import Precision, autocast, resolve_precision
from condprep.annotators.pretrained import Pretrained, prepared, transformers
from condprep.annotators.weighing import twin
from condprep.runtime.fork import Lock
from condprep.weights.find import Weights
from condprep.weights.pins import pin

MIDAS = "dpt_hybrid-midas-501f0c75.pt"
METRIC = {"depth_pro", "glpn", "zoedepth"}  # model types of transformers that answer in metres
NEAREST = 1e-3  # metres; nothing is nearer


class DepthModel(Protocol):
    """What finds the depth, and what the provenance says of it."""

    provenance: Mapping[str, Any]  # weights, licence, commercial
    precision: Precision  # in which it computes, "auto" no more
    plenty: int  # as `Weighed` has it

    def __call__(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) float32 inverse depth on the same device, without unit."""
        ...

    def compute(self, rgb: Tensor) -> Tensor:
        """The same, also of a tensor without numbers; nothing is kept."""
        ...


class Midas:
    """MiDaS 3 DPT-hybrid. Asked twice in a row for the same pictures (depth, then normals) it computes once."""

    plenty = PLENTY

    def __init__(self, network: DptHybrid, weights: Mapping[str, str], device: str, precision: Precision) -> None:
        """weights: file name -> sha256, for the provenance."""
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.device, self.precision = device, precision
        self.provenance: Mapping[str, Any] = {
            "weights": weights,
            "licence": pin(MIDAS).licence,
            "commercial": pin(MIDAS).commercial,
        }
        self._lock = Lock()
        self._last: tuple[Callable[[Tensor], bool], Tensor] | None = None  # whether these are its pictures, depth

    def __call__(self, rgb: Tensor) -> Tensor:
        with self._lock:
            if self._last is None or not self._last[0](rgb):
                self._last = _recogniser(rgb, self.device), self.compute(rgb)
            return self._last[1]

    @torch.inference_mode()
    def compute(self, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        padded = pad_to_grid(rgb).to(torch.float32, memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            depth: Tensor = self.network(padded / 127.5 - 1)
        return depth[..., :height, :width]


def _recogniser(rgb: Tensor, device: str) -> Callable[[Tensor], bool]:
    """What tells whether pictures are these: on the CPU by their values, elsewhere by the tensor, since values make the host wait.

    The memory of a tensor of the CPU may be an array's, which changes unseen.
    """
    if device == "cpu" or rgb.is_inference():  # which counts no changes
        return partial(torch.equal, rgb.clone())
    tensor, version = ref(rgb), rgb._version
    return lambda other: other is tensor() and other._version == version


_midas: WeakValueDictionary[tuple[str, str, str], Midas] = WeakValueDictionary()


def load_midas(weights: Weights, device: str, precision: Precision) -> Midas:
    """The network, shared by all who ask for it with the same weights, device and precision."""
    file = weights.get(MIDAS)
    key = (file.sha256, device, precision)
    model = _midas.get(key)
    if model is None:
        model = _midas[key] = Midas(load_network(file), {file.name: file.sha256}, device, precision)
    return model


class TransformersDepth:
    """A monocular depth model of transformers with its own preprocessing; its answer is resized to the picture, as its pipeline does."""

    plenty = 0  # it resizes pictures, small ones too
    NEEDS = "depth model of transformers: it needs config.json, preprocessor_config.json and model.safetensors"

    def __init__(self, named: Pretrained, *, device: str, precision: Precision) -> None:
        package = transformers(named.door, named.variant)
        self.processor = named.load(package.AutoImageProcessor.from_pretrained, self.NEEDS)
        self.model = named.network(package.AutoModelForDepthEstimation, self.NEEDS).to(device)
        self.metric = is_metric(self.model.config)
        network = "depth in metres" if self.metric else "depth"
        self.device, self.precision = device, resolve_precision(precision, device, network)
        self.provenance: Mapping[str, Any] = named.provenance(getattr(self.model.config, "_commit_hash", None))

    @torch.inference_mode()
    def __call__(self, rgb: Tensor) -> Tensor:
        return self._of(self.model, rgb)

    def compute(self, rgb: Tensor) -> Tensor:
        return self._of(twin(self.model, rgb), rgb)

    def _of(self, model: Any, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        inputs = prepared(self.processor, rgb)
        with autocast(self.precision, self.device):
            answer = model(**inputs)
        depth = answer.predicted_depth.float()
        if self.model.config.model_type == "zoedepth":  # it pads, and takes the border away again
            sizes = [(height, width)] * len(rgb)
            found = self.processor.post_process_depth_estimation(SimpleNamespace(predicted_depth=depth), sizes)
            depth = torch.stack([one["predicted_depth"].float() for one in found])
        depth = F.interpolate(depth[:, None], (height, width), mode="bicubic")
        return 1 / depth.clamp_min(NEAREST) if self.metric else depth


def is_metric(config: Any) -> bool:
    """Whether the model answers with distances (larger is farther) and not with inverse depth."""
    return config.model_type in METRIC or getattr(config, "depth_estimation_type", "relative") == "metric"
