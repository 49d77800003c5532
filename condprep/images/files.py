"""Pictures as files of their own: whole, or not there."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from condprep.runtime.files import commit


def commit_picture(path: Path, picture: Image.Image, form: str) -> None:
    """form: as Pillow names it, "PNG". Raises OSError.

    Encoded before it is written: on a disk that is nearly full, Pillow takes half a write for a whole one.
    """
    encoded = io.BytesIO()
    picture.save(encoded, form)
    commit(path, lambda partial: partial.write_bytes(encoded.getbuffer()))
