"""Models of transformers and diffusers that a variant names: `OWNER/MODEL`, `OWNER/MODEL@REVISION` or a local folder.

Only safetensors are read, and no code of a repository is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from condprep.errors import AnnotatorError, WeightsError, WeightsUnavailable
from condprep.weights.find import Weights, sha256

FREE = {  # licences of cards, in the Hub's words, that allow commercial use
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "wtfpl"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
}
CARD = 1 << 20  # bytes of a model's card that are looked at
SHOWN = 3  # tensors that are named of those that a file lacks


@dataclass(frozen=True)
class Pretrained:
    """One model as a user named it."""

    door: str  # the annotator: "segmentation"
    variant: str
    offline: bool = False
    say: Callable[[str], None] = print  # called with what the user must see

    @classmethod
    def of(cls, door: str, variant: str, weights: Weights) -> Pretrained:
        return cls(door, variant, weights.offline, weights.say)

    @property
    def local(self) -> bool:
        return Path(self.variant).is_dir()

    @property
    def name(self) -> str:
        """The Hub id, or the folder."""
        return self.variant if self.local else self.variant.partition("@")[0]

    @property
    def revision(self) -> str | None:
        """A branch, tag or commit; None: what `main` is now, or what lies in the cache."""
        return None if self.local else self.variant.partition("@")[2] or None

    def has(self, file: str) -> bool:
        """Whether it has a file of that name, as far as that can be found out."""
        from huggingface_hub import hf_hub_download

        if self.local:
            return Path(self.variant, file).is_file()
        try:
            hf_hub_download(self.name, file, revision=self.revision, local_files_only=self.offline)
        except Exception:  # no such file, no network, no such model: loading says which
            return False
        return True

    def load(self, made: Callable[..., Any], needs: str, **options: Any) -> Any:
        """What `made`, a `from_pretrained`, makes of it. needs: what it is not, and which files that has, for messages.

        Raises WeightsUnavailable where it can be fetched elsewhere, WeightsError where it is no such model, would run code or
        is a pickle.
        """
        try:
            return made(
                self.name,
                revision=self.revision,
                local_files_only=self.offline,
                trust_remote_code=False,  # unless it is told not to, transformers asks on the terminal
                **options,
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # KeyError, RuntimeError, SafetensorError: whatever it meets in a foreign file
            raise self._unusable(error, needs) from error

    def network(self, made: Any, needs: str) -> Any:
        """The same of a network, ready to be used; what its file lacks is said, and random, but the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, told = self.load(made.from_pretrained, needs, use_safetensors=True, output_loading_info=True)
        if missing := sorted(told.get("missing_keys", ())):
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            self.say(f"{self}: its file lacks {', '.join(missing[:SHOWN])}{more}; they are random")
        return network.eval()

    def provenance(self, commit: str | None) -> dict[str, Any]:
        """What a record says of it: a folder's files and their sha256 or the Hub id and its commit, and the card's licence."""
        files = fingerprints(Path(self.variant)) if self.local else {self.name: f"commit {commit}"}
        licence = self._licence(commit)
        return {"weights": files, "licence": licence or f"see {self.name}", "commercial": licence in FREE}

    def _licence(self, commit: str | None) -> str:
        """As the model's card names it; "" where there is no card, or it names none."""
        from huggingface_hub import ModelCard, hf_hub_download

        try:
            path = Path(
                Path(self.variant, "README.md")
                if self.local
                else hf_hub_download(self.name, "README.md", revision=commit, local_files_only=self.offline)
            )
            if path.stat().st_size > CARD:
                return ""
            data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
            named = data.get("license_name") if data.get("license") == "other" else data.get("license")
        except Exception:  # no card, no network, no YAML: nobody needs it to make maps
            return ""
        return named if isinstance(named, str) else ""

    def _unusable(self, error: Exception, needs: str) -> AnnotatorError | WeightsError:
        first = (str(error) or type(error).__name__).splitlines()[0]
        if "trust_remote_code" in str(error):
            return WeightsError(
                f"{self} needs code of its repository (trust_remote_code), which condprep never runs; use a model that "
                "transformers or diffusers itself knows"
            )
        if self.local or not isinstance(error, OSError):
            return WeightsError(f"{self} is no {needs} ({first})")
        return WeightsUnavailable(
            f"{self} is neither in the Hub cache nor reachable ({first}). On a connected machine run "
            f"`hf download {self.name} --local-dir DIR`, copy DIR here, and use {self.door}:DIR"
        )

    def __str__(self) -> str:
        return f"{self.door}:{self.variant}"


def fingerprints(folder: Path) -> dict[str, str]:
    """A model's files that its maps depend on, and their sha256: weights, and the settings of network, pictures and steps."""
    found = [path.relative_to(folder) for kind in ("*.safetensors", "*.json") for path in sorted(folder.rglob(kind))]
    return {path.as_posix(): sha256(folder / path) for path in found if not path.parts[0].startswith(".")}


def transformers(door: str, variant: str) -> Any:
    """The package. Raises AnnotatorError where it is not installed."""
    try:
        import transformers as package
    except ImportError as error:
        raise AnnotatorError(f"{door}:{variant} needs transformers: pip install transformers") from error
    return package


def prepared(processor: Any, rgb: Tensor, **further: Any) -> Mapping[str, Any]:
    """(B, 3, H, W) uint8 -> the network's inputs on the same device; a processor that can compute there does."""
    if isinstance(rgb, FakeTensor):
        processor = deepcopy(processor)  # it remembers mean and deviation, which have no numbers here
    looking = getattr(processor, "image_processor", processor)
    kinds = {kind.__name__ for kind in type(looking).__mro__}
    on_device = not kinds.isdisjoint(("TorchvisionBackend", "BaseImageProcessorFast"))
    images = list(rgb if on_device else rgb.cpu())
    inputs = processor(images, **further, input_data_format="channels_first", return_tensors="pt")
    if isinstance(rgb, FakeTensor):
        _forget_normalisation(looking)
    return {name: value.to(rgb.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _forget_normalisation(processor: Any) -> None:
    """What its class remembers of all processors, the copy among them."""
    remembering: Any = getattr(type(processor), "_fuse_mean_std_and_rescale_factor", None)
    if hasattr(remembering, "cache_clear"):
        remembering.cache_clear()
