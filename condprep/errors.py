"""Every error condprep raises on purpose. Each message names the thing, its value and the remedy.

What goes wrong is told apart, because it ends differently (docs/faults.md):

    Rejected       the input's own fault      a reject, and the others go on
    PassingFault   storage, memory            tried again; then its shard is given up, and the same command goes on
    ProgramFault   the device, an annotator   stops at once, and nothing further of the shard is kept
    TargetFault    the output's disk          stops at once; what was finished stays
    StorageFault   rights, credentials        the same
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# code -> what it means; docs/faults.md has the same table
REJECTS: Mapping[str, str] = {
    "bad-listing": "a line of the listing that cannot be used: malformed, or without the name of a picture",
    "listed-twice": "a name that was listed before",
    "outside-source": "a name that leads out of the source",
    "missing-file": "a file that is listed and not there",
    "unreadable-file": "a file that is there and may not be read",
    "unreadable-folder": "a folder that may not be listed",
    "not-a-file": "a folder, link, device or sparse file where a picture should be",
    "too-large-file": "a file of more than 1 GiB",
    "cut-off": "a file that is shorter than when it was listed",
    "damaged-source": "a tar, Arrow or Parquet file that is damaged, from there on",
    "no-map": "a picture that has no map",
    "no-picture": "a map that has no picture, or a row that holds none",
    "second-map": "one more map of the same picture",
    "bad-value": "a value of a type that is no picture and no path",
    "bad-caption": "a caption that is neither a string nor a list of strings",
    "empty": "no bytes at all",
    "unknown-format": "no picture of a format that is read",
    "no-reader": "a picture of a format whose reader is not installed",
    "truncated": "a picture that ends too early",
    "damaged": "a picture that cannot be decoded",
    "too-many-pixels": "a picture of more than --max-pixels",
    "too-costly": "a picture that would take out of proportion long, or much memory, to decode",
    "no-value-range": "pixels without a defined range: 32 bits, or LAB",
    "damaged-map": "a map that came with its picture and cannot be decoded",
    "too-small": "a picture that would be enlarged more than --max-upscale",
    "too-large-for-network": "a picture for which a network needs more than --network-memory",
    "annotator-rejected": "a picture that an annotator cannot use, as it says itself",
    "annotator-failed": "a picture on which an annotator fails, while it works on others",
    "empty-map": "a picture in which nothing was found, with --drop-empty",
    "wrong-pair": "a pair that does not fit together",
    "left-out": "a row that is left out",
}
# what the code of a reject is that says none, by its stage
GENERAL: Mapping[str, str] = {
    "source": "bad-listing",
    "read": "unreadable-file",
    "decode": "damaged",
    "fit": "too-small",
    "annotate": "annotator-rejected",
    "check": "wrong-pair",
    "curate": "left-out",
}


class CondprepError(Exception):
    """Base of all errors that condprep raises on purpose; the command line prints them without a stack trace."""

    exit_code = 1
    of_command: str | None = None  # the message of the command line, where this one names arguments of Python


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
    """The build ended without what was asked for: no rows, too many rejects, or one of the faults below.

    `result` is the BuildResult where the build came to its end.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class PassingFault(BuildFailed):
    """Storage or memory failed, and went on failing when it was tried again. The same command goes on."""


class ShardFault(PassingFault):
    """One shard was given up for it; others can still be built."""


class ProgramFault(BuildFailed):
    """The device or an annotator failed, whatever the picture. Nothing further of the shards under way is kept."""


class TargetFault(BuildFailed):
    """The output cannot be written: no space, or its disk fails. What was committed stays."""


class StorageFault(BuildFailed):
    """Storage refuses what is asked: credentials are missing, expired or may not. What was committed stays."""


class Rejected(CondprepError):
    """One input cannot become a row, and the fault is its own: recorded as a reject, never seen by the caller.

    `stage` is a key of GENERAL. `code` stays the same from version to version: one of REJECTS, an annotator's own, the
    "GROUP-RULE" of a check, or the name that `condprep curate --drop` was given.
    """

    def __init__(self, stage: str, reason: str, *, code: str = "") -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.code = code or GENERAL[stage]
