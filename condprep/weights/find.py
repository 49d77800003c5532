"""Where weights come from: the user's folder, then what is cached, then a download that is pinned by sha256.

The sha256 of a file is known before anything opens it, and no checkpoint is read in a way that can run code.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from condprep.errors import UsageError, WeightsError, WeightsUnavailable
from condprep.runtime.files import commit
from condprep.weights import hub, wheels
from condprep.weights.pins import PINS, Hub, Pin, pin

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

N = TypeVar("N", bound="nn.Module")
Stamp = tuple[str, int, int, int]  # of a file: where it is, and what changes with its content
SHOWN_KEYS = 3  # of a checkpoint that does not fit


@dataclass(frozen=True)
class WeightFile:
    """A weights file that is on disk and whose sha256 is known."""

    name: str  # as on the Hub: "body_pose_model.pth"
    path: Path
    sha256: str
    pinned: bool  # False: not the pinned content, the user's own


class Weights:
    """Finds weights: a folder (`--weights` or CONDPREP_WEIGHTS), then the caches, then a pinned download.

    folder: files under the names of `table()`. strict: no variant may stand in for one whose weights are missing.
    offline: never download (HF_HUB_OFFLINE=1 stops downloads from the Hub alone). say: called with a line that the
    user must see (a user's own file, a stand-in, a download); by default such a line is logged as a warning. Raises
    UsageError for a folder that does not exist. Pickles without `say`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        strict: bool = False,
        offline: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = _existing(folder)
        self.strict = strict
        self.offline = offline
        self.say = say or logger.warning
        self._found: dict[
            tuple[str, Stamp], WeightFile
        ] = {}  # so that a file is hashed, and a user's own one told, once

    def __repr__(self) -> str:
        return f"Weights({self.folder and str(self.folder.absolute())!r}, strict={self.strict}, offline={self.offline})"

    def __reduce__(self) -> Any:
        return partial(Weights, strict=self.strict, offline=self.offline), (self.folder and self.folder.absolute(),)

    def locate(self, name: str) -> Path | None:
        """Where the file is on disk (folder, then caches), or None. Quick: its content is not looked at."""
        wanted = pin(name)
        if self.folder and (own := self.folder / name).is_file():
            return own
        return hub.cached(wanted, wanted.origin) if isinstance(wanted.origin, Hub) else wheels.cached(wanted)

    def find(self, name: str) -> WeightFile | None:
        """The file if it is on disk already, else None. Raises WeightsError if a cached one is damaged."""
        path = self.locate(name)
        return None if path is None else self._hashed(pin(name), path)

    def _hashed(self, wanted: Pin, path: Path) -> WeightFile:
        """It may be another file by now than when it was found before."""
        known = wanted.name, _stamp(path)
        if known not in self._found:
            self._found[known] = self._checked(wanted, path)
        return self._found[known]

    def get(self, name: str) -> WeightFile:
        """The file, downloaded if need be. Raises WeightsUnavailable with the exact remedy, WeightsError if damaged."""
        wanted = pin(name)
        if found := self.find(name):
            return found
        if self.offline:
            _unavailable(wanted, "downloads are switched off")
        try:
            path = self._download(wanted)
        except WeightsError:
            raise
        except Exception as error:  # httpx, requests, hf_xet and pip fail with whatever they like
            _unavailable(wanted, _why(error), error)
        return self._hashed(wanted, path)

    def pull(self, name: str, to: Path) -> Path:
        """Put a file, downloaded if need be, into a folder that can serve as `--weights` elsewhere; its new path."""
        source, target = self.get(name), to / name
        try:
            to.mkdir(parents=True, exist_ok=True)
            commit(target, lambda partial: shutil.copyfile(source.path, partial))
        except OSError as error:
            raise WeightsError(f"cannot write {target}: {error.strerror}; choose another folder with --to") from error
        return target

    def _checked(self, wanted: Pin, path: Path) -> WeightFile:
        actual = sha256(path)
        if actual == wanted.sha256:
            return WeightFile(wanted.name, path, actual, pinned=True)
        if self.folder and path == self.folder / wanted.name:
            self.say(f"{path} is not the published {wanted.name} but your own (sha256 {actual[:12]}...); using it")
            return WeightFile(wanted.name, path, actual, pinned=False)
        raise WeightsError(
            f"{path} is damaged: sha256 {actual}, expected {wanted.sha256}; delete it and it is downloaded again"
            " (a file of your own belongs into a folder given with --weights)"
        )

    def _download(self, wanted: Pin) -> Path:
        def announce() -> None:
            self.say(f"downloading {wanted.name} ({wanted.megabytes}; {wanted.licence}) from {wanted.origin}")

        if isinstance(wanted.origin, Hub):
            return hub.download(wanted, wanted.origin, announce)
        return wheels.download(wanted, wanted.origin, announce)


def _stamp(path: Path) -> Stamp:
    now = path.stat()
    return str(path), now.st_ino, now.st_size, now.st_mtime_ns


def table() -> tuple[Pin, ...]:
    """Every weights file that condprep knows: name, origin, size in bytes, sha256, licence, commercial use allowed."""
    return PINS


def sha256(path: Path) -> str:
    """The file's sha256, hex. Raises WeightsError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error


def _existing(folder: Path | None) -> Path | None:
    source = "--weights" if folder else "CONDPREP_WEIGHTS"
    named = folder or os.environ.get("CONDPREP_WEIGHTS")
    if not named:
        return None
    if not Path(named).is_dir():
        raise UsageError(f"{source} {named}: no such folder; it must hold weights under the names of `weights list`")
    return Path(named)


def _unavailable(wanted: Pin, why: str, cause: BaseException | None = None) -> NoReturn:
    raise WeightsUnavailable(
        f"{wanted.name} ({wanted.megabytes}) is not on this machine and cannot be fetched from {wanted.origin}: "
        f"{why}. On a connected machine run `condprep weights pull {wanted.name} --to DIR`, "
        "copy DIR here, and pass --weights DIR or set CONDPREP_WEIGHTS=DIR"
    ) from cause


def _why(error: BaseException) -> str:
    root = error.__cause__ or error  # the Hub's library hides the reason behind a general sentence
    if getattr(root, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(root):
        return "no space left on the disk of the cache (free some, or move it with HF_HOME or CONDPREP_CACHE)"
    return _first_line(root).rstrip(".")


def load_state_dict(file: WeightFile, under: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU: safetensors by suffix, else a torch file with `weights_only`.

    under: the name under which they lie in it, where other things lie beside them; "module.", which training on several GPUs
    puts before names, is then left out. Raises WeightsError for a damaged file, for one that would run code, and for one that
    is no state dict.
    """
    state = read_checkpoint(file)
    if under:
        if not isinstance(state, Mapping) or not isinstance(state.get(under), Mapping):
            raise WeightsError(f"{file.path} is a checkpoint of another model than {file.name}: missing {under}")
        state = {str(key).replace("module.", ""): value for key, value in state[under].items()}
    if not isinstance(state, Mapping) or not all(isinstance(k, str) and hasattr(v, "shape") for k, v in state.items()):
        raise WeightsError(f"{file.path} is no state dict: it must hold tensors by name and nothing else")
    return dict(state)


def read_checkpoint(file: WeightFile) -> object:
    """Whatever a checkpoint holds, on the CPU: tensors, and plain Python values beside and around them.

    Raises WeightsError for a damaged file and for one that would run code or fill the memory.
    """
    try:
        return _read(file.path)
    except Exception as error:  # a damaged file makes the readers raise almost anything
        raise WeightsError(
            f"{file.path} cannot be read as a checkpoint: {_first_line(error)}; fetch it again"
        ) from error


def network_with(make: Callable[[], N], state: Mapping[str, Tensor], file: WeightFile) -> N:
    """A network with the tensors of a checkpoint, on the CPU, without the time that random weights would take. Raises WeightsError."""
    import torch

    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    load_into(network, state, file)
    return network


def load_into(module: nn.Module, state: Mapping[str, Tensor], file: WeightFile) -> None:
    """Copy `state` into the module: every key there, none left over. Raises WeightsError that names what differs."""
    wanted = module.state_dict()
    differences = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
    }
    found = [f"{what} {_shown(keys)}" for what, keys in differences.items() if keys]
    if found:
        raise WeightsError(f"{file.path} is a checkpoint of another model than {file.name}: {'; '.join(found)}")
    module.load_state_dict(state)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    _refuse_compressed(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_compressed(path: Path) -> None:
    """torch stores without compression; a file that grows when it is unpacked was made to fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise WeightsError(f"it would unpack to {unpacked} bytes")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
