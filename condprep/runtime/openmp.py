"""How OpenMP's threads, with which torch computes on a CPU, wait for each other."""

from __future__ import annotations

import os

POLICY = "OMP_WAIT_POLICY"


def wait_passively() -> None:
    """Let threads that wait sleep instead of spin, unless the user has said otherwise. To be called before torch is loaded.

    Threads that spin at a barrier burn the core for which the others wait: beside another busy process on two cores a
    training makes a tenth of its updates or fewer. For commands, which own their process; not for a library in somebody
    else's. Processes that are started from this one do the same.
    """
    os.environ.setdefault(POLICY, "PASSIVE")
