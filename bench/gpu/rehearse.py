"""The rehearsal: --tiny in an environment like that of the GPU's machine, with nothing but what is carried there.

The virtual environment has the packages of image.txt (once: torch is gigabytes). Beside it lie the packed wheels, unpacked
without their dependencies, and a copy of the files that git knows or would know: what else is here is not there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

from bench import CHECKOUT

IMAGE = Path(__file__).with_name("image.txt")


def rehearse(options: argparse.Namespace) -> int:
    """The exit code of --tiny there."""
    venv, pack = options.venv.absolute(), options.pack and options.pack.absolute()
    python = make_environment(venv, options.python)
    tree = copy_tree(venv / "tree")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONDPREP_SHARED")}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "HOME": str(empty(venv / "home"))}
    site = empty(venv / "site")
    environment["PYTHONPATH"] = os.pathsep.join((str(site), str(tree)))
    if pack:
        install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--upgrade",
            "--target",
            site,
        ]
        run(python, *install, *sorted((pack / "wheels").glob("*.whl")))
        environment["CONDPREP_SHARED"] = str(pack / "shared")
    versions(python, environment)
    tiny = ["-m", "bench", "gpu", "--tiny", "--out", str(options.out.absolute()), "--parts", *options.parts]
    tiny += ["--budget", str(options.budget)] if options.budget else []
    tiny += ["--peer", str(options.peer.absolute())] if options.peer else []
    return subprocess.run([python, *tiny], cwd=tree, env=environment).returncode


def make_environment(venv: Path, python: str) -> Path:
    """Its interpreter, with the packages of image.txt."""
    if not (venv / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
        (venv / ".gitignore").write_text("*\n")
    run(venv / "bin" / "python", "-m", "pip", "install", "-q", "--requirement", IMAGE)
    return venv / "bin" / "python"


def copy_tree(folder: Path) -> Path:
    """The files that travel: those that git tracks, and those that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split("\0")
    shutil.rmtree(folder, ignore_errors=True)
    size = 0
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
            size += (folder / name).stat().st_size
    print(f"{len(names):,} files, {size / 2**20:.1f} MiB of the working tree", flush=True)
    return folder


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def versions(python: Path, environment: dict[str, str]) -> None:
    """What will be used, as the other machine would say it."""
    code = "import sys, torch, transformers, diffusers, numpy; print('Python', sys.version.split()[0], *(f'{m.__name__} {m.__version__}' for m in (torch, transformers, diffusers, numpy)))"
    subprocess.run([str(python), "-c", code], env=environment, check=True)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
