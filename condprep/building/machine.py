"""What computes the pixels of a build beside its options: libraries, and for networks the device and how it computes.

Other versions decode, resize and compress a little differently, another device rounds differently: a dataset is made by one
of each. It is recorded in the plan, compared when a build goes on, and is part of the dataset's provenance.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from condprep.annotators.protocol import Annotator

if TYPE_CHECKING:
    import torch

LIBRARIES = ("cykooz.resizer", "numpy", "pillow", "pyarrow", "simplejpeg")  # that every picture goes through


def describe_machine(annotators: Iterable[Annotator]) -> dict[str, str]:
    """Name -> version, or what else it is. Of networks with torch and the devices that they are on."""
    import cv2

    found = {"opencv": str(cv2.__version__)}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # a machine for which there is no wheel
            found[name] = str(version(name))
    networks = [one for one in annotators if one.batch_size > 1]
    return found | (_device(sorted({one.device for one in networks})) if networks else {})


def _device(devices: Iterable[str]) -> dict[str, str]:
    import torch

    kinds = [torch.device(device) for device in devices]
    found = {"torch": torch.__version__, "device": ", ".join(map(_named, kinds))}
    if any(kind.type == "cuda" for kind in kinds):
        cudnn = torch.backends.cudnn
        found["cudnn"] = str(cudnn.version())  # type: ignore[no-untyped-call]
        found["matmul"] = torch.get_float32_matmul_precision()
        found["convolutions"] = "TF32" if cudnn.allow_tf32 else "float32"
    return found


def _named(device: torch.device) -> str:
    """The model of a GPU, not its number; of a CPU the instructions that torch has kernels for."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type
