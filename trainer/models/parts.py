"""The parts of a diffusers folder: found, read, fingerprinted. Nothing in it is ever run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from condprep.runtime.files import read_json
from trainer.errors import ModelError, first_line
from trainer.recipe.layout import CONFIG

if TYPE_CHECKING:
    from torch import Tensor, nn

# what a ControlNet has in common with the denoiser that it steers
SAME = (
    *("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type"),
    *("num_attention_heads", "attention_head_dim", "joint_attention_dim", "pooled_projection_dim", "patch_size"),
    *("dim", "n_heads", "control_in_dim", "conditioning_channels", "num_mode"),
)
INDEX = "model_index.json"  # of a pipeline's folder
LAYERS = 200  # in a row, more than any model of these families has
GONE = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}


class Parts(Protocol):
    """What a base is made of, wherever it lies. All raise ModelError for what is missing, damaged or of another kind."""

    def network(self, kind: Any, part: str, *, stored: bool = False) -> Any:
        """One of its networks, of a class of diffusers or transformers: frozen, float32, in eval mode.

        stored: in the precision of its file, which takes half of the memory where that is half precision.
        """
        ...

    def config(self, kind: Any, part: str) -> Any:
        """A tokenizer or scheduler."""
        ...

    def setting(self, name: str, default: Any) -> Any:
        """Of the pipeline itself."""
        ...


@dataclass(frozen=True)
class FolderParts:
    """Of a folder of diffusers, whose model_index.json has been read."""

    folder: Path
    safetensors: bool

    def network(self, kind: Any, part: str, *, stored: bool = False) -> Any:
        return read_part(kind, self.folder, part, self.safetensors, stored)

    def config(self, kind: Any, part: str) -> Any:
        return read_config(kind, self.folder, part)

    def setting(self, name: str, default: Any) -> Any:
        return read_json(self.folder / INDEX).get(name, default)


def folder_of(name: str, revision: str, safetensors: bool) -> Path:
    """The folder of a pipeline: a local one, or a download into the Hub's cache. Raises ModelError."""
    path = Path(name)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise ModelError(f"model.base {name!r} is no diffusers pipeline: it has no {INDEX}")
        return path
    if name in GONE:
        raise ModelError(f"model.base {name!r} is gone from the Hub; its maintained copy is {GONE[name]!r}")
    if name.count("/") != 1 or path.is_absolute():
        kind = "file" if path.suffix == ".safetensors" else "folder"
        raise ModelError(f"model.base {name!r}: there is no such {kind}, and a name on the Hub is OWNER/NAME")
    return _download(name, revision, safetensors)


def check_channels(where: Path, unet: Mapping[str, Any]) -> None:
    """Raises ModelError for a UNet's configuration that takes more than latents."""
    into, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if into != out:
        raise ModelError(f"{where} has a UNet of {into} input channels for {out}: it is for inpainting or editing")


def _download(name: str, revision: str, safetensors: bool) -> Path:
    from diffusers import DiffusionPipeline

    with explained(f"model.base {name!r} is neither a folder nor to be had from the Hub", safetensors):
        how: Any = {"use_safetensors": safetensors or None, "safety_checker": None, "trust_remote_code": False}
        return Path(DiffusionPipeline.download(name, revision=revision or None, **how))


def check_config(folder: Path) -> None:
    """Raises ModelError for a configuration of quantized weights, of which nothing can be trained or copied, or of so many layers
    that to make them would take hours or all memory."""
    try:
        config = read_json(folder / CONFIG)
    except FileNotFoundError:
        return  # which is said where it is opened
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG} is no configuration")
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder} has quantized weights, of which nothing can be trained or copied: name the model whose weights are"
            ' not; model.quantize = "fp8" or "nf4" makes those of the base small here'
        )
    for name, value in config.items():
        most = max(_numbers(value), default=0) if "layers" in name else 0
        if most > LAYERS:
            raise ModelError(f"{folder / CONFIG}: {name} = {most:.3g} is more than the {LAYERS} that any model has")


def _numbers(value: Any) -> Iterator[float]:
    """Of a value of JSON, and of lists in each other."""
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def read_part(kind: Callable[..., Any], folder: Path, part: str, safetensors: bool, stored: bool = False) -> Any:
    """A frozen network of a pipeline's folder, in eval mode: kind.from_pretrained. stored: as its file has it, else float32.

    Raises ModelError.
    """
    if not (folder / part).is_dir():
        raise ModelError(f"{folder} has no {part}")
    check_config(folder / part)
    with explained(f"{folder / part} cannot be loaded", safetensors):
        which: dict[str, Any] = {"subfolder": part, "variant": _variant(folder / part)}
        if stored and (dtype := _stored_dtype(folder / part)):
            which |= {"use_safetensors": safetensors or None, "torch_dtype": dtype}
            return frozen(_whole(kind, str(folder), **which))
        return frozen(_pretrained(kind, str(folder), safetensors, **which))


def read_model(kind: Callable[..., Any], name: str, safetensors: bool) -> Any:
    """A network with a folder or Hub name of its own, float32. Raises ModelError."""
    _check_name(name)
    with explained(f"{name!r} cannot be loaded", safetensors):
        return _pretrained(kind, name, safetensors)


def read_controlnet(kind: Any, name: str, safetensors: bool) -> Any:
    """As `read_model`, of that very class of ControlNets. Raises ModelError for one of another class."""
    _check_name(name)
    with explained(f"{name!r} cannot be loaded", safetensors):
        found = kind.load_config(name).get("_class_name", kind.__name__)
    if found != kind.__name__:
        raise ModelError(
            f"{name!r} is a {found}, and a {kind.__name__} is needed: data.conditions says for how many kinds"
        )
    return read_model(kind, name, safetensors)


def _check_name(name: str) -> None:
    """Raises ModelError where there is nothing of that name, or a configuration that asks for too much."""
    if not Path(name).is_dir() and (name.count("/") != 1 or Path(name).parent.is_dir()):
        raise ModelError(f"there is no folder {name!r}, and a name on the Hub is OWNER/NAME")
    check_config(Path(name))


def read_config(kind: Callable[..., Any], folder: Path, part: str) -> Any:
    """A tokenizer or scheduler of a pipeline's folder. Raises ModelError."""
    if not (folder / part).is_dir():
        raise ModelError(f"{folder} has no {part}")
    with explained(f"{folder / part} cannot be loaded", safetensors=True):
        return kind.from_pretrained(str(folder), subfolder=part)  # type: ignore[attr-defined]


def _pretrained(kind: Any, name: str, safetensors: bool, **which: Any) -> Any:
    # .float(): transformers keeps the dtype of the file, diffusers does not
    return _whole(kind, name, use_safetensors=safetensors or None, **which).float()


def _whole(kind: Any, name: str, **which: Any) -> Any:
    """Raises ValueError for a file that lacks weights: diffusers and transformers would go on with random ones."""
    network, info = kind.from_pretrained(name, output_loading_info=True, **which)
    refuse_missing(sorted(info["missing_keys"]))
    return network


def refuse_missing(names: Sequence[str]) -> None:
    """Raises ValueError where there are any."""
    if names:
        more = f" and {len(names) - 1:,} others" if len(names) > 1 else ""
        raise ValueError(f"its file has no {names[0]}{more}: it is damaged, or of another model")


def _stored_dtype(folder: Path) -> Any:
    """bf16 or fp16, where the first of the weights in a folder's safetensors have it; else None."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "pt") as file:
            names = list(file.keys())
            found = file.get_tensor(names[0]).dtype if names else None
        return found if found in (torch.bfloat16, torch.float16) else None
    return None


def _variant(folder: Path) -> str | None:
    """ "fp16" where a folder holds nothing else."""
    names = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    return "fp16" if names and all(".fp16." in name for name in names) else None


@contextmanager
def explained(what: str, safetensors: bool = False) -> Iterator[None]:
    """What diffusers, transformers, safetensors and the Hub raise, as a ModelError of one line."""
    try:
        yield
    except Exception as error:  # each library has its own, and RuntimeError for weights that do not fit
        reason = first_line(error)
        pickled = safetensors and "safetensors" in reason
        hint = "; model.safetensors = false admits pickled weights" if pickled else ""
        if is_gated(error):
            hint = (
                "; its licence must be accepted on its page on the Hub, and `hf auth login` (or HF_TOKEN) say who has"
            )
        raise ModelError(f"{what}: {reason}{hint}") from error


def is_gated(error: BaseException | None) -> bool:
    """Whether the Hub has refused somebody who is not logged in, or has not accepted a licence."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None and not isinstance(error, GatedRepoError):
        error = error.__cause__ or error.__context__
    return error is not None


def mismatches(controlnet: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where a ControlNet's configuration differs from that of a denoiser, or of a ControlNet of one: key, its value, the other's."""
    pairs = [(key, controlnet[key], other[key]) for key in SAME if key in other]
    return [pair for pair in pairs if plain(pair[1]) != plain(pair[2])]


def plain(value: Any) -> Any:
    """A tuple is a list where it has been a file."""
    return list(value) if isinstance(value, list | tuple) else value


def another_of(network: Any) -> Any:
    """A network of diffusers of the same class and configuration, whose weights are still to come.

    What was written into the configuration later counts, too: `from_config` takes the class's defaults for what had been left to
    them, whatever has been registered since.
    """
    known = {name: value for name, value in network.config.items() if name != "_use_default_values"}
    return type(network).from_config(known)


def frozen(network: Any) -> Any:
    return network.requires_grad_(False).eval()


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """What its file holds beside its parameters, by name: positions that are computed, say."""
    trained = {name for name, _ in network.named_parameters()}
    return {name: tensor for name, tensor in network.state_dict().items() if name not in trained}


def _plain_bytes(tensor: Tensor) -> Any:
    """Of a contiguous tensor; numpy knows no bf16."""
    import torch

    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy().data


def fingerprint(modules: Iterable[nn.Module], *settings: Any) -> str:
    """sha256 of every weight and of what else the output depends on; to be taken before a dtype changes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(_plain_bytes(tensor.contiguous()))
    return digest.hexdigest()
