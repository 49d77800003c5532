"""Every error that trainer raises on purpose, below condprep's own tree."""

from __future__ import annotations

from condprep.errors import CondprepError, UsageError


class RecipeError(UsageError):
    """A recipe that cannot be: no such file, broken TOML, an unknown key, a value out of its range, a combination."""


class DataError(UsageError):
    """A dataset that this recipe cannot be trained on: a missing split or column, unequal pairs, too few rows."""


class ModelError(UsageError):
    """A base model or ControlNet that is missing, of another architecture, or does not fit the rest."""


class MachineError(UsageError):
    """The machine lacks what the recipe asks for: a GPU, bitsandbytes, a tracker, memory, disk."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be continued: damaged, or of another recipe or dataset."""


class TrainingStopped(CondprepError):
    """Training ended before its last update: a loss that is not finite, or a full disk."""


def readable_bytes(size: float) -> str:
    """ "1.2 GB", and below a gigabyte "340.0 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
