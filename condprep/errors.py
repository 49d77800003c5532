"""Every error condprep raises on purpose. Each message names the thing, its value and the remedy."""

from __future__ import annotations

from typing import Any


class CondprepError(Exception):
    """Base of all errors that condprep raises on purpose; the command line prints them without a stack trace."""

    exit_code = 1


class UsageError(CondprepError):
    """The caller asked for something that cannot be: a wrong option, path, name or combination."""

    exit_code = 2


class SourceError(UsageError):
    """The source as a whole cannot be read (a single bad picture is a reject, never an error)."""


class AnnotatorError(UsageError):
    """Unknown annotator or variant, unknown parameter, or a value out of its range."""


class DatasetError(UsageError):
    """The output folder is not what this build expects: foreign files, another configuration, a second process."""


class WeightsError(CondprepError):
    """A weights file is damaged, of another model, or not what was pinned."""


class WeightsUnavailable(WeightsError):
    """Weights are neither on disk nor reachable."""


class BuildFailed(CondprepError):
    """The build ended without what was asked for: no rows, too many rejects, or no space left.

    `result` is the BuildResult where the build came to its end.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class Rejected(CondprepError):
    """One input cannot become a row. Raised inside the pipeline, recorded as a reject, never seen by the caller.

    `stage` is one of "source", "read", "decode", "fit", "annotate", "check".
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
