"""What Ray starts for each of its workers, as its `setup_worker_path`: the first one on a node imports what all of them
import, and the others are forked from it, without the second that this takes.

A worker is a process of its own as ever, that Ray knows and a test can kill; it imports condprep itself.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

# Beside Ray: what condprep.building.on_ray, Canny and a shard in Arrow or Parquet are made of.
IMPORTED = ["braceexpand", "charset_normalizer", "cv2", "filelock", "numpy", "packaging.version", "PIL.Image", "psutil"]
IMPORTED += ["pyarrow.parquet", "pydantic", "ray._private.workers.default_worker", "requests", "simplejpeg"]


def main() -> None:
    raylet = int(os.environ["RAY_RAYLET_PID"])
    address = f"\0condprep-tests-{raylet}"  # of Linux; elsewhere each imports for itself
    me = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
        asked.connect(address)
        asked.sendall(json.dumps(me).encode())
        return
    sys.path.pop(0)  # the helpers of tests
    for name in IMPORTED:
        importlib.import_module(name)
    with suppress(OSError):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address)  # else another one was first
        listening.listen()
        if not os.fork():
            me = forked(listening, raylet)
        listening.close()
    become(**me)


def forked(listening: socket.socket, raylet: int) -> dict[str, Any]:
    """In each process that is asked for, who it is; returns in these alone. What they are forked from ends with its node."""
    os.setsid()  # whoever kills the first worker, and its group, means that one
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening.settimeout(1)
    while lives(raylet):
        with suppress(TimeoutError):
            asked, _ = listening.accept()
            with asked, asked.makefile() as said:
                request: dict[str, Any] = json.loads(said.read())
            if not os.fork():
                os.setsid()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return request
    os._exit(0)


def lives(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def become(arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """The worker that Ray has asked for, as its own setup_worker.py makes one: "--NAME=VALUE ... FILE OPTIONS"."""
    from ray._private.runtime_env.context import RuntimeEnvContext

    os.environ.clear()
    os.environ.update(environment)
    mine = [word for word in arguments if word.startswith(("--serialized-runtime-env-context=", "--language="))]
    context = [word.partition("=")[2] for word in mine if "context" in word]
    os.environ.update(RuntimeEnvContext.deserialize((context or ["{}"])[0] or "{}").env_vars)
    sys.argv = [word for word in arguments if word not in mine]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
