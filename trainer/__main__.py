"""`python -m trainer`, or `condprep-train`; several GPUs: `accelerate launch -m trainer RECIPE`."""

from __future__ import annotations

import signal
from collections.abc import Callable

from condprep.__main__ import leave, speak_utf8


def main() -> None:
    """The command line."""
    loaded()()


def loaded() -> Callable[[], None]:
    """What the command runs. While its libraries are loaded an interruption ends at once, as docs/trainer.md says."""
    speak_utf8()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    from trainer.cli.main import main as run

    return run


if __name__ == "__main__":
    loaded()()  # and not by `main`, which would be one call more between the command and the work
