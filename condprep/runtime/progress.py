"""How far a long call is, told to whoever called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """Where a build, or a look at a dataset, is; passed to the callback for every picture."""

    stage: Literal["wait", "list", "build", "finish", "annotate", "verify", "push"]
    done: int  # inputs; of a push files
    total: int | None  # None while listing
    rejects: int = 0
    details: str | None = None  # what is said instead of the rejects, where there can be none
