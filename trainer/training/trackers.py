"""Trackers beside metrics.jsonl: found before anything is loaded; an interrupted run goes on as the same run in them."""

from __future__ import annotations

import os
import uuid
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from condprep.runtime.files import commit_text
from condprep.runtime.own import make_folder
from trainer.errors import MachineError, first_line
from trainer.recipe.layout import LOGS
from trainer.recipe.recipe import by_key

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

    from trainer.recipe.recipe import Recipe

IDENTITY = "run-id"  # there: the name of this run, also after an interruption
PICTURES = "samples"
IDLE = ("offline", "disabled", "dryrun")  # modes of wandb that need no login
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def find_tracker(name: str) -> str | None:
    """What `log.tracker` stands for on this machine. Raises MachineError for one that is not installed, or lets nobody in."""
    if name == "auto":
        return "tensorboard" if find_spec("tensorboard") else None
    if name == "none":
        return None
    if not find_spec(name):
        raise MachineError(f'log.tracker = "{name}" is not installed: pip install {name}, or say log.tracker = "none"')
    if name == "wandb" and os.environ.get("RANK", "0") == "0" and not _is_logged_in():
        raise MachineError(
            'log.tracker = "wandb", and nobody is logged in to it on this machine: `wandb login` or WANDB_API_KEY, WANDB_MODE=offline'
            ' to keep the run on the disk, or log.tracker = "none"'
        )
    return name


def _is_logged_in() -> bool:
    """Whether wandb would find a key, or asks for none. It is asked itself when it starts; here nothing of it is loaded."""
    if os.environ.get("WANDB_MODE", "online") in IDLE or any(os.environ.get(name) for name in KEYS):
        return True
    own = (Path(os.environ.get("WANDB_CONFIG_DIR", Path.home() / ".config" / "wandb")), Path("wandb"))
    settings = [line.partition("=") for folder in own for line in _lines(folder / "settings")]
    if any(name.strip() == "mode" and value.strip() in IDLE for name, _, value in settings):
        return True
    known = {name.strip(): value.strip() for name, _, value in settings}
    address = os.environ.get("WANDB_BASE_URL") or known.get("base_url") or "https://api.wandb.ai"
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / name for name in (".netrc", "_netrc")]
    return bool(known.get("api_key")) or any(_has_login(file, urlsplit(address).hostname or "") for file in files)


def _has_login(file: Path, host: str) -> bool:
    """Whether a netrc file has a login; of one that cannot be understood wandb is to judge."""
    try:
        return bool(netrc(str(file)).authenticators(host))
    except OSError:
        return False
    except NetrcParseError:
        return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def start_tracker(accelerator: Accelerator, recipe: Recipe, update: int) -> None:
    """Begin this run in the recipe's tracker, or go on after that update. Raises MachineError where it refuses."""
    if not accelerator.log_with:
        return
    name = str(accelerator.log_with[0].value)
    try:
        accelerator.init_trackers(
            recipe.log.project,
            config=_config(recipe),
            init_kwargs={name: _settings(name, Path(recipe.save.dir), update) if accelerator.is_main_process else {}},
        )
    except Exception as error:  # each package has its own: no login, no network, a project of somebody else's
        raise MachineError(
            f'log.tracker = "{name}" could not be started: {first_line(error)}. Log in to it, or say log.tracker = "none"'
        ) from error


def _settings(name: str, folder: Path, update: int) -> dict[str, Any]:
    run = _identity(folder / LOGS)
    match name:
        case "wandb":
            return {"id": run, "name": folder.resolve().name, "dir": str(folder / LOGS), "resume": "allow"}
        case "trackio":
            return {"name": f"{folder.resolve().name}-{run}", "resume": "allow"}
        case _:  # what a killed run had written after the checkpoint is hidden
            return {"purge_step": update + 1} if update else {}


def _identity(logs: Path) -> str:
    file = logs / IDENTITY
    if not file.exists():
        make_folder(logs)
        commit_text(file, uuid.uuid4().hex[:8])
    return file.read_text(encoding="utf-8").strip()


def _config(recipe: Recipe) -> dict[str, int | float | str]:
    keys = by_key(recipe.model_dump()).items()
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in keys}


def show_picture(tracker: Any, picture: Image.Image, update: int) -> None:
    """One picture into a tracker of accelerate, in its own way."""
    match tracker.name:
        case "tensorboard":
            tracker.log_images({PICTURES: np.asarray(picture)[None]}, step=update, dataformats="NHWC")
        case "trackio":
            import trackio

            tracker.log({PICTURES: trackio.Image(picture)}, step=update)
        case _:
            tracker.log_images({PICTURES: [picture]}, step=update)
