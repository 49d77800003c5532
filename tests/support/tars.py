"""Tars as they come: any members, any format."""

from __future__ import annotations

import io
import tarfile


def tar(*members: tuple[str | tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """The bytes of a tar with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as out:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()
