"""What the device is, and what it can do at best: the two ceilings that every other figure is held against."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from bench.annotators import matmul_rate, seconds
from bench.gpu.figures import Figures

PACKAGES = ("torchvision", "transformers", "diffusers", "accelerate", "datasets", "numpy", "controlnet-aux")


def measure(figures: Figures, options: argparse.Namespace) -> None:
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    total = torch.cuda.get_device_properties(0).total_memory / 1e9 if on_gpu else None
    figures.add("memory", total, "GB", f"{name}; driver {driver()}; CUDA {torch.version.cuda}; {os.cpu_count()} cores")
    found = ", ".join(f"{package} {installed(package)}" for package in PACKAGES)
    figures.add("versions", None, "", f"Python {platform.python_version()}, torch {torch.__version__}, {found}")
    copies(figures, options.device, 2**26 if options.tiny else 2**32)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for kind, dtype in types.items():
        rate = matmul_rate(options.device, dtype, 256 if options.tiny else None)
        figures.add(f"matrix product {kind}", rate / 1e12, "TFLOP/s")
    figures.say(f"{name}: {figures.value('copy on the device'):,.0f} GB/s, {rate / 1e12:,.3g} TFLOP/s in fp16")


def copies(figures: Figures, device: str, size: int) -> None:
    """On the device (bytes read and written), and to and from it."""
    here = torch.empty(size, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    best = min(seconds(lambda: there.copy_(here), device) for _ in range(10))
    figures.add("copy on the device", 2 * size / best / 1e9, "GB/s", "bytes read and written")
    small = size // 8
    for pinned in (True, False) if device == "cuda" else (False,):
        host = torch.empty(small, dtype=torch.uint8, pin_memory=pinned)
        to = min(seconds(lambda: there[:small].copy_(host), device) for _ in range(5))  # noqa: B023
        back = min(seconds(lambda: host.copy_(there[:small]), device) for _ in range(5))  # noqa: B023
        kind = "pinned" if pinned else "pageable"
        figures.add(f"copy to it, {kind}", small / to / 1e9, "GB/s", f"back: {small / back / 1e9:.1f} GB/s")


def driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
