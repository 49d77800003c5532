"""`condprep`, and `python -m condprep`: an interruption ends as docs/cli.md says from the first moment on."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """The command line, which takes the signals over once it is loaded."""
    speak_utf8()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    from condprep.cli.main import main as run

    run()


def speak_utf8() -> None:
    """Names of files are UTF-8, whatever the locale says: Arrow opens no others, and other machines read them. Python has to begin so."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def leave(*_: object) -> None:
    """Nothing is under way yet: no stack trace of an import, and no import that takes the exception for its own."""
    os.write(2, b"error: stopped\n")
    os._exit(1)


if __name__ == "__main__":
    main()
