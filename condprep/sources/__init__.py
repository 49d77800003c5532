"""Where pictures come from: `open_source(path)` recognises a folder, an imagefolder, a Hugging Face dataset or tars."""

from __future__ import annotations

from pathlib import Path

from condprep.errors import SourceError
from condprep.sources.base import Source


def open_source(
    path: str | Path,
    kind: str | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    exclude: Path | None = None,
) -> Source:
    """The source at `path`. (The folder kind; the others follow.)"""
    from condprep.sources.folder import FolderSource

    root = Path(path)
    if not root.is_dir():
        raise SourceError(f"there is no folder {str(path)!r}")
    return FolderSource(root, exclude)
