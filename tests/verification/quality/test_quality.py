"""What is measured of a picture's quality: each measure follows the fault that it is for, and no other."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from support.thorough import share

from condprep.verification.quality.checks import CURATION
from condprep.verification.quality.picture import greyed, quality


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Sharp ones, 400 x 400."""
    from skimage import data

    pictures = [data.astronaut(), data.coffee(), data.rocket(), data.camera()]
    coloured = [np.dstack([one] * 3) if one.ndim == 2 else one for one in pictures]
    return [np.ascontiguousarray(one[:400, 50:450]) for one in coloured]


def jpeg(picture: np.ndarray, level: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=level)
    return np.array(Image.open(file))


def enlarged(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, (120, 120), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (400, 400), interpolation=cv2.INTER_CUBIC)


def moved(picture: np.ndarray) -> np.ndarray:
    return cv2.filter2D(picture, -1, np.full((1, 13), 1 / 13, np.float32))


def barred(picture: np.ndarray) -> np.ndarray:
    letterboxed = picture.copy()
    letterboxed[:40] = letterboxed[-40:] = 0
    return jpeg(letterboxed, 90)


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), 3),
    "dark": lambda picture: (picture * 0.18).astype(np.uint8),
    "light": lambda picture: (picture * 0.2 + 200).astype(np.uint8),
    "flat": lambda picture: (picture * 0.03 + 100).astype(np.uint8),
    "jpeg-damage": lambda picture: jpeg(picture, 8),
    "bars": barred,
}


def found(picture: np.ndarray) -> set[str]:
    """The rules about the picture alone that it breaks."""
    measured = quality(picture)
    scores = {name: getattr(measured, name) for name in measured.__dataclass_fields__}
    about = [check for check in CURATION.checks if check.name not in ("extreme-aspect", "nobody", "markup")]
    return {check.name for check in about if check(scores)}


def test_photographs_are_clean(photographs: list[np.ndarray]) -> None:
    """Sharp photographs break no rule, as they are, turned, mirrored, or saved as JPEG of quality 80."""
    for picture in photographs:
        for same in (picture, picture[::-1], picture.swapaxes(0, 1), jpeg(picture, 80)):
            assert found(np.ascontiguousarray(same)) == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(photographs: list[np.ndarray], fault: str) -> None:
    """Each fault breaks its rule; of other rules only what the fault brings with it."""
    brings = {"flat": {"blurred", "upscaled"}, "dark": {"flat"}, "light": {"flat"}, "jpeg-damage": {"blurred"}}
    calm = 2  # a night sky, of which JPEG leaves few blocks to be seen
    for picture in [one for n, one in enumerate(photographs) if n != calm or fault != "jpeg-damage"]:
        rules = found(FAULTS[fault](picture))
        assert fault in rules
        assert rules <= {fault} | brings.get(fault, set())


def test_motion_blurs_one_direction(photographs: list[np.ndarray]) -> None:
    """A picture that is sharp across and smeared along is blurred, whichever direction it is."""
    for picture in photographs:
        assert "blurred" in found(moved(picture))
        assert "blurred" in found(np.ascontiguousarray(moved(picture).swapaxes(0, 1)))


def test_a_picture_that_was_enlarged_holds_less(photographs: list[np.ndarray]) -> None:
    """Enlarged to 3.3 times its size, a picture holds less than half of its resolution; before, all of it."""
    for picture in photographs:
        assert quality(picture).held >= 0.9
        assert quality(enlarged(picture)).held <= 0.5


def test_a_soft_background_is_no_blur(photographs: list[np.ndarray]) -> None:
    """A sharp quarter before a blurred background is a sharp picture."""
    for picture in photographs:
        portrait = cv2.GaussianBlur(picture, (0, 0), 6)
        portrait[100:300, 100:300] = picture[100:300, 100:300]
        assert "blurred" not in found(portrait)


def test_the_grid_is_found_wherever_a_crop_moved_it(photographs: list[np.ndarray]) -> None:
    """JPEG's blocks count the same when the picture is cropped by any number of pixels."""
    damaged = jpeg(photographs[0], 10)
    whole = quality(damaged).blocks
    for dx, dy in ((1, 0), (3, 5), (7, 7)):
        assert abs(quality(np.ascontiguousarray(damaged[dy:, dx:])).blocks - whole) < 0.3


def test_a_night_sky_is_no_bar() -> None:
    """Rows that end in black by and by, or on one side alone, are no bars; bars with straight edges are measured."""
    night = np.zeros((200, 200, 3), np.uint8)
    night[60:140] = np.linspace(0, 255, 200, dtype=np.uint8)[:, None] * np.ones(3, np.uint8)
    night[:60, :, :] = night[140:, :, :] = 0
    assert quality(night).bars == pytest.approx(0.6)
    fading = np.minimum(np.abs(np.arange(200) - 100), 60)
    sky = np.repeat((60 - fading)[:, None], 200, 1).astype(np.uint8)
    assert quality(np.dstack([sky] * 3)).bars == 0
    night[:60] = 90
    assert quality(night).bars == 0


@settings(max_examples=share(60), deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3))))
@example(np.uint8([[[value] * 3 for value in (0, 10, 0, 0, 0, 11, 0, 10, 0, 0, 0, 0, 10, 0, 0, 0, 0, 11, 10, 0, 0)]]))
def test_any_picture_can_be_measured(picture: np.ndarray) -> None:
    """From 1 x 1 on, of any pixels: numbers in their ranges, no error, no NaN."""
    measured = quality(picture)
    assert measured.sharpness is None or 0 <= measured.sharpness <= 1
    assert 0 <= measured.held <= 1
    assert 0 <= measured.bars < 1
    assert 0 <= measured.dark <= measured.light <= 255
    assert 0 <= measured.range <= 255
    assert np.isfinite(measured.blocks)


def plain_sharpness(grey: np.ndarray, contrast: float) -> float | None:
    """As `sharpness` along the rows, with every row and column measured before any is left out."""
    if grey.shape[1] < 9:
        return None
    kernel = np.ones((1, 9), np.uint8)
    change = cv2.subtract(cv2.dilate(grey, kernel), cv2.erode(grey, kernel))[::3, :-1:3]
    steepest = cv2.dilate(cv2.absdiff(grey[:, 1:], grey[:, :-1]), kernel)[::3, ::3]
    ratios = np.sort(np.minimum(steepest[change >= contrast] / change[change >= contrast].astype(np.float32), 1))
    return float(ratios[int(0.9 * (len(ratios) - 1))]) if 0 < len(ratios) >= 0.002 * change.size else None


def test_what_is_left_out_changes_nothing(photographs: list[np.ndarray]) -> None:
    """Sharpness, of which a third of the rows is measured, equals that of the whole picture, bit for bit."""
    rng = np.random.default_rng(0)
    sides = (1, 2, 8, 9, 10, 11, 12, 50)
    odd = [rng.integers(0, 256, (height, width, 3), np.uint8) for height in sides for width in sides]
    for picture in [*photographs, *odd]:
        grey, measured = greyed(picture), quality(picture)
        contrast = float(np.clip(measured.range / 6, 10, 32))
        found = [plain_sharpness(np.ascontiguousarray(view), contrast) for view in (grey, grey.T)]
        assert measured.sharpness == min((one for one in found if one is not None), default=None)
