"""What `condprep doctor` finds: each thing that can be wrong with a machine, and nothing on a sound one."""

from __future__ import annotations

import builtins
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from huggingface_hub import constants

from condprep.cli import diagnosis
from condprep.cli.diagnosis import Observation, diagnose, unmet
from condprep.weights import pins
from condprep.weights.find import Weights

DiskUsage = namedtuple("DiskUsage", "total used free")
Memory = namedtuple("Memory", "total available")


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own caches are not looked into."""
    monkeypatch.delenv("CONDPREP_WEIGHTS", raising=False)
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def installed(folder: Path, name: str, version: str, *needs: str) -> None:
    """What pip leaves of a package for `importlib.metadata`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def about(findings: list[Observation], what: str) -> list[Observation]:
    return [finding for finding in findings if finding.what == what]


def test_a_sound_machine_has_no_errors(tmp_path: Path) -> None:
    """Here, where these tests run, everything is looked at, nothing is an error, and no remedy lacks for a warning."""
    findings = diagnose(tmp_path)
    looked_at = {finding.what for finding in findings}
    assert {"python", "packages", "opencv", "cpu", "memory", "disk", "weights"} <= looked_at
    assert not [finding for finding in findings if finding.level == "error"]
    assert all(finding.remedy for finding in findings if finding.level != "ok")


def test_a_missing_and_an_old_requirement_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that is missing or too old is told with both versions; fitting and optional ones are not."""
    needs = ("condprep-x-old>=3.0", "condprep-x-gone", "condprep-x-fits>=1", "condprep-x-extra; extra == 'dev'")
    installed(tmp_path, "condprep-x", "1.5", *needs)
    installed(tmp_path, "condprep-x-old", "2.14")
    installed(tmp_path, "condprep-x-fits", "1.0+cpu")
    monkeypatch.syspath_prepend(tmp_path)
    assert unmet("condprep-x") == [
        "condprep-x 1.5 needs condprep-x-old>=3.0, and 2.14 is installed",
        "condprep-x 1.5 needs condprep-x-gone, and none is installed",
    ]
    assert unmet("condprep-not-installed") == []


def test_our_own_misfits_are_errors_and_others_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What condprep itself needs is an error when it is missing; what its neighbours need is a warning."""
    monkeypatch.setattr(diagnosis, "unmet", lambda name: [f"{name} misfit"])
    levels = {finding.detail: finding.level for finding in about(diagnose(), "packages")}
    assert levels["condprep misfit"] == "error"
    assert levels["controlnet-aux misfit"] == "warn"
    assert levels["torchvision misfit"] == "warn"


def test_two_opencvs_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """opencv-python beside opencv-python-headless: a warning with the commands that leave one of them."""
    installed(tmp_path, "opencv-python", "4.10.0")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = [finding for finding in about(diagnose(), "opencv") if finding.level == "warn"]
    assert "opencv-python and opencv-python-headless" in finding.detail
    assert finding.remedy.startswith("pip uninstall -y opencv-python opencv-python-headless")


def test_any_opencv_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that asks for one of the four OpenCV packages is content with another of them."""
    installed(tmp_path, "condprep-x", "1.0", "opencv-contrib-python>=4.5")
    monkeypatch.syspath_prepend(tmp_path)
    assert unmet("condprep-x") == []  # opencv-python-headless is installed here


@pytest.mark.parametrize("module", ["torch", "cv2"])
def test_a_broken_library_is_found_and_the_rest_still_looked_at(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """A library that cannot be imported is an error with its reason, and does not end the diagnosis."""
    original = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == module:
            raise ImportError("libGL.so.1: cannot open shared object file")
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    findings = diagnose()
    (finding,) = [finding for finding in findings if finding.level == "error"]
    assert "libGL.so.1" in finding.detail
    assert about(findings, "disk")


@pytest.mark.parametrize(
    ("cuda", "detail", "remedy"), [(None, "without CUDA", "pytorch.org"), ("12.8", "cannot use it", "nvidia-smi")]
)
def test_a_gpu_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, detail: str, remedy: str
) -> None:
    """A driver without a usable GPU is a warning that tells a CPU build of torch from a driver that is too old."""
    monkeypatch.setattr(diagnosis, "nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (finding,) = about(diagnose(), "gpu")
    assert finding.level == "warn"
    assert detail in finding.detail
    assert remedy in finding.remedy


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU is named with its free and total memory and the number format it computes in."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(70e9), int(80e9)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    (finding,) = about(diagnose(), "cuda:1")
    assert finding.detail == "NVIDIA H100, 70.0 of 80.0 GB free, computes in bf16"


def test_little_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 2 GB of free memory is a warning that names the options that save memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(total=16e9, available=1e9))
    (finding,) = about(diagnose(), "memory")
    assert (finding.level, finding.detail) == ("warn", "1.0 of 16.0 GB free")
    assert "--workers" in finding.remedy


def test_the_disk_is_the_one_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there yet is judged by the nearest one above it; a nearly full disk is a warning."""
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or DiskUsage(10e9, 9e9, 1.35e9))
    (finding,) = about(diagnose(tmp_path / "not" / "yet"), "disk")
    assert asked == [tmp_path]
    assert finding.level == "warn"
    assert "about 10,000 pairs" in finding.detail


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to write there is no build."""
    monkeypatch.setattr(diagnosis.os, "access", lambda *_: False)
    (finding,) = about(diagnose(tmp_path), "disk")
    assert (finding.level, finding.remedy) == ("error", "choose another folder")


def test_weights_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own file is marked as such, a damaged cached one is an error, and all others are to be downloaded."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "facenet.pth").write_bytes(b"mine")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "movenet-thunder.bin").write_bytes(b"half")
    findings = about(diagnose(tmp_path, Weights(tmp_path / "own", say=lambda _: None)), "weights")
    own, damaged, missing = findings
    assert own.level == "ok"
    assert own.detail.startswith(f"{tmp_path / 'own' / 'facenet.pth'}, your own")
    assert damaged.level == "error"
    assert "movenet-thunder.bin is damaged" in damaged.detail
    assert missing.detail.count(",") == len(pins.PINS) - 2
