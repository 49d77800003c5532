"""Small files that are pinned, and caches of each test's own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.pinned import CONTENT, REVISION, SHA, tiny_package, tiny_wheel

from condprep.weights import pins, wheels


@pytest.fixture(autouse=True)
def _private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or writes to, the caches of the machine."""
    monkeypatch.delenv("CONDPREP_WEIGHTS", raising=False)
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def hub_pin(monkeypatch: pytest.MonkeyPatch) -> pins.Pin:
    """A small file that is pinned on the Hub."""
    return _add(monkeypatch, pins.Hub("someone/weights", REVISION), "small.pth")


@pytest.fixture
def wheel_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pins.Pin:
    """A small file that is pinned in a wheel, and pip configured to find that wheel in a local folder alone."""
    archive = tiny_wheel(tmp_path / "links", CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    origin = pins.Wheel("tinymodel", "1.0", archive.stat().st_size, hashlib.sha256(archive.read_bytes()).hexdigest())
    return _add(monkeypatch, origin, "small.tflite", member="tinymodel/small.tflite")


@pytest.fixture
def npm_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pins.Pin:
    """A small file that is pinned in an npm package, and an `npm` that copies that package from a local folder."""
    archive = tiny_package(tmp_path / "packages", CONTENT)
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ntest "$1" = pack || exit 2\ncp {archive} . || {{ echo "npm error 404 not there" >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    origin = pins.Npm("@some/models", "1.0", archive.stat().st_size, hashlib.sha256(archive.read_bytes()).hexdigest())
    return _add(monkeypatch, origin, "small.bin", member="package/models/small.bin")


def _add(
    monkeypatch: pytest.MonkeyPatch, origin: pins.Hub | pins.Wheel | pins.Npm, name: str, member: str = ""
) -> pins.Pin:
    added = pins.Pin(name, origin, len(CONTENT), SHA, "MIT", True, member)
    monkeypatch.setitem(pins._BY_NAME, name, added)
    monkeypatch.setattr(wheels, "PINS", (*pins.PINS, added))
    return added
