"""One picture in the four fits, each with its canny map: makes docs/geometry.webp.

python examples/geometry.py [docs/geometry.webp]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from skimage import data

import condprep
from condprep.annotation.pictures import Annotated
from condprep.dataset.contact_sheet import SheetRow, contact_sheet

TITLES = {
    "crop": "the middle square",
    "bucket": "the nearest aspect bucket",
    "pad": "all of it, in a square",
    "keep": "the size as it is",
}


def main(out: Path) -> None:
    picture = Image.fromarray(data.coffee())
    contact_sheet([pair(picture, fit) for fit in TITLES], out, columns=2, cell=192)


def pair(picture: Image.Image, fit: str) -> SheetRow:
    """The picture and its map as they are stored."""
    (result,) = condprep.annotate([picture], "canny", fit=fit)
    assert isinstance(result, Annotated), result
    width, height = result.image.size
    return SheetRow([result.image, result.maps["canny"]], [f"{fit}: {width} x {height}, {TITLES[fit]}"])


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["docs/geometry.webp"]))
