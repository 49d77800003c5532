"""Pictures that `condprep verify` would leave out, each with the reason: makes docs/images/curation.webp.

python examples/curation.py [docs/images/curation.webp]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np
from PIL import Image
from skimage import data

from condprep.dataset.contact_sheet import SheetRow, contact_sheet
from condprep.dataset.pairs.open import Pair as StoredPair
from condprep.verification.check import Context
from condprep.verification.opened import Opened, OpenedPair
from condprep.verification.quality.checks import CURATION, measure
from condprep.verification.tokens import TokenCounter

CELL, LINE = 208, 30  # pixels, and letters of a line below a picture


def blurred(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 3)


def upscaled(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, None, fx=0.35, fy=0.35, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_LANCZOS4)


def dark(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.15).astype(np.uint8)


def light(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.28 + 184).astype(np.uint8)


def flat(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.03 + 120).astype(np.uint8)


def wide(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[150:270])


def damaged(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=8)
    return np.array(Image.open(file))


def barred(picture: np.ndarray) -> np.ndarray:
    letterboxed = picture.copy()
    letterboxed[:56] = letterboxed[-56:] = 0
    return letterboxed


FAULTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    **{"blurred": blurred, "upscaled": upscaled, "dark": dark, "light": light},
    **{"flat": flat, "extreme-aspect": wide, "jpeg-damage": damaged, "bars": barred},
}


def main(out: Path) -> None:
    picture = np.ascontiguousarray(data.coffee()[:, 100:500])
    contact_sheet([pair(rule, change(picture)) for rule, change in FAULTS.items()], out, columns=4, cell=CELL)


def pair(rule: str, picture: np.ndarray) -> SheetRow:
    """The picture and what the rule says about it."""
    context = Context(None, False, False, TokenCounter(None))
    scores = measure(OpenedPair(StoredPair(0, ""), Opened(rgb=picture), Opened()), context)
    reason = next(check(scores) for check in CURATION.checks if check.name == rule)
    assert reason, rule
    return SheetRow([Image.fromarray(picture)], [rule, *wrap(reason, LINE)])


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["docs/images/curation.webp"]))
