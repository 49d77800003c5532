"""Annotators that draw lines: which network each has, and what becomes of its answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from condprep.annotators.gridded import Gridded
from condprep.annotators.lines.drawings import AnimeDrawing, Drawing, renamed
from condprep.annotators.lines.mlsd import MlsdNetwork
from condprep.annotators.lines.pidinet import PidiNetwork
from condprep.annotators.lines.segments import draw_segments, likeliest
from condprep.annotators.lines.teed import Teed as TeedNetwork
from condprep.annotators.precision import NetworkParams, resolve_precision
from condprep.annotators.softedges import SoftEdges, scribble, to_grey
from condprep.types import Maps, Seen
from condprep.weights.find import WeightFile, Weights, load_state_dict, network_with

A = TypeVar("A", bound=Gridded)


class Lineart(Gridded):
    """Lines as a pencil would draw them, light on dark, one channel. Its network answers how light the paper is."""

    name = "lineart"

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8."""
        return Maps(255 - self.answer(rgb).clamp(0, 255).byte())


class LineartAnime(Lineart):
    """The same for anime."""

    name = "lineart_anime"
    grid = 256  # its network halves eight times


class PidiNet(SoftEdges):
    """Soft edges of PiDiNet."""

    name = "pidinet"

    def __init__(self, network: nn.Module, variant: str, **how: Any) -> None:
        super().__init__(network, variant, **how)
        self.style = variant


class Teed(SoftEdges):
    """Edges of TEED in three levels, as controlnet_aux has them."""

    name, style = "teed", "safe"


class Drawn(Gridded):
    """Maps of 0 and 255 that are drawn on the CPU of what the network found in the padded picture, and then cut.

    So a line that leaves the picture, or a stroke at its border, is the one that the reference draws.
    """

    binary = True

    @abstractmethod
    def found(self, answer: Tensor) -> Tensor:
        """The network's answer (B, C, h, w) -> what drawing needs of each picture, on the device."""

    @abstractmethod
    def drawn(self, found: np.ndarray, height: int, width: int) -> np.ndarray:
        """Of one picture -> (height, width) uint8, the padded picture's size."""

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8."""
        seen = self.see(rgb, keys)
        drawn = [self.draw([found], size)[0] for found, size in zip(seen.tensors[0].cpu().numpy(), seen.found)]
        return Maps(torch.from_numpy(np.stack(drawn))[:, None].to(rgb.device))

    @torch.inference_mode()
    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """What was found in each picture, and its height and width."""
        return Seen([self.found(self.answer_padded(rgb))], [(rgb.shape[2], rgb.shape[3])] * len(keys))

    def draw(self, arrays: Sequence[np.ndarray], found: tuple[int, int]) -> tuple[np.ndarray, dict[str, Any]]:
        """Of one picture: what was found -> the map (H, W)."""
        (height, width), padded = found, [-(-side // self.grid) * self.grid for side in found]
        return np.ascontiguousarray(self.drawn(arrays[0], *padded)[:height, :width]), {}


class PidiNetScribble(Drawn):
    """The strongest of PiDiNet's edges as thick strokes."""

    name = "pidinet"

    def found(self, answer: Tensor) -> Tensor:
        return to_grey(answer.sigmoid())

    def drawn(self, found: np.ndarray, height: int, width: int) -> np.ndarray:
        return scribble(found[0])


class Mlsd(Drawn):
    """Straight line segments, one pixel wide."""

    name = "mlsd"

    def found(self, answer: Tensor) -> Tensor:
        return likeliest(answer)

    def drawn(self, found: np.ndarray, height: int, width: int) -> np.ndarray:
        return draw_segments(found, height, width)


def load_lineart(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> Lineart:
    """`lineart` and `lineart:coarse`. Raises WeightsError."""
    file = weights.get("sk_model2.pth" if variant == "coarse" else "sk_model.pth")
    return _loaded(Lineart, Drawing, load_state_dict(file), file, variant, params, device)


def load_anime(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> LineartAnime:
    """`lineart_anime`. Raises WeightsError."""
    file = weights.get("netG.pth")
    return _loaded(LineartAnime, AnimeDrawing, renamed(load_state_dict(file)), file, variant, params, device)


def load_pidinet(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> Gridded:
    """`pidinet`, `pidinet:safe` and `pidinet:scribble`. Raises WeightsError."""
    file = weights.get("table5_pidinet.pth")
    cls = PidiNetScribble if variant == "scribble" else PidiNet
    return _loaded(cls, PidiNetwork, load_state_dict(file, "state_dict"), file, variant, params, device)


def load_teed(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> Teed:
    """`teed`. Raises WeightsError."""
    file = weights.get("5_model.pth")
    return _loaded(Teed, TeedNetwork, load_state_dict(file), file, variant, params, device)


def load_mlsd(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> Mlsd:
    """`mlsd`. Raises WeightsError."""
    file = weights.get("mlsd_large_512_fp32.pth")
    return _loaded(Mlsd, MlsdNetwork, load_state_dict(file), file, variant, params, device)


def _loaded(
    cls: type[A],
    make: Callable[[], nn.Module],
    state: Mapping[str, Tensor],
    file: WeightFile,
    variant: str,
    params: NetworkParams,
    device: str,
) -> A:
    network, precision = network_with(make, state, file), resolve_precision(params.precision, device, cls.name)
    return cls(network, variant, file=file, device=device, precision=precision, batch_size=16)
