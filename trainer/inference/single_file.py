"""The result as one file of safetensors, for other programs: in the names that they read, with what it is in its header."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from condprep.errors import UsageError
from condprep.runtime.files import commit, read_json
from trainer.errors import MachineError, ModelError, first_line, readable_bytes
from trainer.inference.checkpoint_folder import result_folder
from trainer.inference.header import Words, header
from trainer.inference.original_names import original_names
from trainer.inference.pipeline import WeightsName, read_records, weights_folder
from trainer.models.families import UNETS
from trainer.models.parts import explained
from trainer.recipe.layout import CONFIG, WEIGHTS
from trainer.types import ONE_FILE, Precision, Program, Say, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

RENAMED = {("comfyui", "sd"), ("a1111", "sd")}  # docs/decisions/0025: who gets the original names


def export(
    output: str | Path,
    out: str | Path,
    *,
    to: Program,
    checkpoint: int | None = None,
    weights: WeightsName = "best",
    precision: Precision = "fp16",
    title: str = "",
    author: str = "",
    licence: str = "",
    overwrite: bool = False,
    say: Say = lambda _: None,
) -> Path:
    """Write the ControlNet in `output`, the folder of a run, into one file for another program; returns its path.

    to: the program. checkpoint, weights: as `load_pipeline` takes them. precision: of the file. title, author, licence: for the
    file's header. Raises ModelError where `output` holds no result, or one that does not fit the program's names or the precision,
    UsageError for a file that is there, and MachineError where there is no room.
    """
    folder = result_folder(Path(output), checkpoint, say)
    training, condition = read_records(folder)
    source, path = weights_folder(folder, weights), Path(out)
    check_file(path, source / WEIGHTS, overwrite)
    state = read_weights(source / WEIGHTS, precision)
    with _recorded(source):
        config = read_json(source / CONFIG)
        if to == "a1111" and training["family"] not in UNETS:
            raise ModelError(
                f'{output} is a ControlNet of family "{training["family"]}", which AUTOMATIC1111\'s program cannot load: say "comfyui" or'
                ' "single-file"'
            )
        original = (to, training["family"]) in RENAMED
        if original:
            try:
                names = original_names(list(state), config)
            except ModelError as error:
                raise ModelError(f'{source} cannot be exported to "{to}": {error}; say "single-file"') from None
            state = {names[name]: weight for name, weight in state.items()}
        metadata = header(
            training,
            condition,
            config,
            Words(title, author, licence),
            original=original,
            made=(source / WEIGHTS).stat().st_mtime,
            sha256=digest(state),
        )
    write(path, state, metadata)
    return path


@contextmanager
def _recorded(source: Path) -> Iterator[None]:
    """What records of others may be, damaged or made up, as a ModelError of one line."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{source} holds no result of the trainer: its records are damaged ({first_line(error)})"
        ) from error


def check_file(path: Path, source: Path, overwrite: bool) -> None:
    """Raises ModelError for a name of another kind of file, UsageError for a file that is not to be replaced."""
    if path.suffix != ONE_FILE:
        raise ModelError(f"{path}: a ControlNet in one file is a {ONE_FILE} file")
    if path.exists() and path.samefile(source):
        raise UsageError(f"{path} is the result itself; choose another --out")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists; choose another --out or say --overwrite")


def read_weights(path: Path, precision: Precision) -> dict[str, Tensor]:
    """The weights in a precision, read one at a time. Raises ModelError for a damaged file, and for what does not fit."""
    from safetensors import safe_open

    dtype, state = torch_dtype(precision), {}
    if not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{path} is not there, or no file")
    with explained(f"{path} cannot be read"), safe_open(str(path), "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            state[name] = file.get_tensor(name).to(dtype)
    for name, weight in state.items():
        if not weight.isfinite().all():
            raise ModelError(f"{path}: {name} has values that {precision} cannot hold; fp32 has the widest range")
    return state


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 of the tensors' bytes as they lie in the file, which is in the order of their names."""
    import torch

    found = hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The final name exists once the file is complete. Raises MachineError where there is no room, or no permission."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    needed = sum(weight.nbytes for weight in state.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise MachineError(
                f"{path.parent} has {readable_bytes(free)} free, and {path.name} takes {readable_bytes(needed)}: make room, or"
                " choose another --out"
            )
        commit(path, lambda partial: save_file(dict(state), partial, metadata=dict(metadata)), renames=True)
    except (OSError, SafetensorError) as error:
        raise MachineError(f"{path} could not be written: {first_line(error)}") from error
