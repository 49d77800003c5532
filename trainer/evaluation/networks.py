"""What only a further network can measure: CLIP score and KID, where the weights are on this machine.

Neither looks at the condition. CLIP score says whether a picture shows its caption, KID whether pictures look real: a
ControlNet that follows its condition at the cost of either is no gain.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from condprep.errors import UsageError, WeightsError
from condprep.images.decode import Pixels
from condprep.weights.find import WeightFile, load_state_dict, sha256
from trainer.errors import ModelError, first_line
from trainer.evaluation.intervals import Interval, interval
from trainer.models.parts import frozen, read_model

if TYPE_CHECKING:
    from torch import nn

CLIP = "openai/clip-vit-base-patch16"  # whose scores ControlNet++ and others report
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's file; the last part begins its sha256
SUBSETS = 100  # of KID
LEAST = 4  # pictures of which KID has subsets
WITHIN = 1.96  # standard deviations that hold 95 %


class Clip:
    """Does a picture show what its caption says?"""

    def __init__(self, name: str, device: str) -> None:
        """A CLIP model and its processor, by folder or Hub name. Raises ModelError."""
        from transformers import CLIPModel, CLIPProcessor

        self.model = frozen(read_model(CLIPModel, name, safetensors=False)).to(device)
        try:
            self.processor = CLIPProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"{name!r} has no processor beside its CLIP model: {first_line(error)}") from error

    @torch.inference_mode()
    def __call__(self, picture: Pixels, caption: str) -> float:
        """CLIP score of (H, W, 3) uint8 RGB, 0..100: 100 max(cosine, 0), as torchmetrics; long captions are cut.

        torchmetrics 1.9 itself cannot use the models of transformers 5.
        """
        given = self.processor(text=[caption], images=[picture], return_tensors="pt", padding=True, truncation=True)
        found = self.model(**given.to(self.model.device))  # its embeddings have length 1
        return 100 * max(0.0, float((found.image_embeds * found.text_embeds).sum()))


class Kid:
    """Kernel inception distance (Binkowski et al. 2018) x 1000 between two sets of pictures: 0 where they are alike."""

    def __init__(self, network: nn.Module) -> None:
        """network: (1, 3, H, W) uint8 RGB -> features (1, C) float, on any device."""
        self.network = network

    @torch.inference_mode()
    def __call__(self, real: Sequence[Pixels], made: Sequence[Pixels], seed: int) -> Interval:
        """Of N pictures each, the mean over random halves; below `LEAST` pictures all is NaN.

        Halves drawn without replacement scatter as whole sets drawn anew do (the delete-half jackknife, Shao and Wu
        1989). Rows drawn twice, as a bootstrap has them, would count as pictures that are alike.
        """
        from torchmetrics.image.kid import KernelInceptionDistance

        if len(real) < LEAST:
            return interval([])
        with warnings.catch_warnings(action="ignore"):  # that it keeps the features
            measure = KernelInceptionDistance(feature=self.network, subsets=SUBSETS, subset_size=len(real) // 2)
        for pictures, are_real in ((real, True), (made, False)):
            for picture in pictures:
                measure.update(_tensor(picture, self.network), real=are_real)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the subsets
            mean, deviation = (1000 * float(value) for value in measure.compute())
        return Interval(mean, mean - WITHIN * deviation, mean + WITHIN * deviation, len(real))


def _tensor(picture: Pixels, network: nn.Module) -> torch.Tensor:
    place = next(network.parameters(), torch.empty(0)).device
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(place)


@dataclass(frozen=True)
class Networks:
    """Those that are at hand."""

    clip: Clip | None = None
    kid: Kid | None = None
    missing: Sequence[str] = ()  # what is not measured, and why


NONE = Networks()


def at_hand(clip: str | None, inception: Path | None, device: str) -> Networks:
    """What is asked for, or else lies in the caches of this machine: nothing is downloaded that was not asked for.

    clip: a folder or Hub name; inception: torch-fidelity's file. Raises ModelError, UsageError and WeightsError where
    one that is asked for cannot be used.
    """
    looks, lacks_clip = _clip(clip, device)
    kid, lacks_kid = _kid(inception, device)
    return Networks(looks, kid, [why for why in (lacks_clip, lacks_kid) if why])


def _clip(name: str | None, device: str) -> tuple[Clip | None, str]:
    if name is not None:
        return Clip(name, device), ""
    folder = _cached(CLIP)
    if folder is None:
        return None, f"no CLIP score: {CLIP} is not in the Hub cache; --clip names a folder, or a model to download"
    try:
        return Clip(str(folder), device), ""
    except ModelError as error:
        return None, f"no CLIP score: {error}"


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, "config.json")
    return Path(path).parent if isinstance(path, str) else None


def _kid(file: Path | None, device: str) -> tuple[Kid | None, str]:
    """A file that is asked for has to be usable, one that is found by chance does not."""
    if file is not None and not file.is_file():
        raise UsageError(f"--inception {file}: there is no such file; it is torch-fidelity's {INCEPTION}")
    path = file or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if find_spec("torch_fidelity") is None:
        if file is not None:
            raise UsageError("--inception needs torch-fidelity: pip install torch-fidelity")
        return None, "no KID: torch-fidelity is not installed"
    if not path.is_file():
        return None, f"no KID: torch-fidelity's {INCEPTION} is not in torch's cache; --inception names the file"
    return Kid(read_inception(path, device)), ""


def read_inception(path: Path, device: str) -> nn.Module:
    """The network of FID and KID: (N, 3, H, W) uint8 RGB -> (N, 2048) float32. Raises WeightsError.

    torch-fidelity would unpickle anything, so the file is first seen to hold tensors and nothing else.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    digest, begins = sha256(path), Path(INCEPTION).stem.rpartition("-")[2]
    if not digest.startswith(begins):
        raise WeightsError(f"{path} is not {INCEPTION}: its sha256 is {digest}, not {begins}...")
    load_state_dict(WeightFile(INCEPTION, path, digest, pinned=True))
    network: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    return frozen(network).to(device)  # type: ignore[no-any-return]
