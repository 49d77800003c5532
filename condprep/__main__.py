"""`condprep`, and `python -m condprep`: an interruption ends as docs/cli.md says from the first moment on."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """The command line, which takes the signals over once it is loaded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    from condprep.cli.main import main as run

    run()


def leave(*_: object) -> None:
    """Nothing is under way yet: no stack trace of an import, and no import that takes the exception for its own."""
    os.write(2, b"error: stopped\n")
    os._exit(1)


if __name__ == "__main__":
    main()
