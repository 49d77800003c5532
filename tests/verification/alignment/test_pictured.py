"""Kinds that are the picture itself, less something: what is planted is told, what is right is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.drawings import photo, shifted
from support.pictures import encoded
from support.thorough import slow_ones

import condprep
from condprep.annotators.filters import blur, color, intensity, luminance, tile
from condprep.annotators.inpaint import holes
from condprep.types import PICTURED
from condprep.verification.alignment.pictured import compare_pictured
from condprep.verification.alignment.registration import unscaled

Change = Callable[[np.ndarray], np.ndarray]
NAMES = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 256


def missing(picture: np.ndarray) -> np.ndarray:
    """Half of the picture is black."""
    return np.where(holes("a row", *picture.shape[:2], 50, 50)[..., None], np.uint8(0), picture)


MAPS: dict[str, tuple[str, Change]] = {  # what the map is -> its kind, and how it is made
    "tile": ("tile", lambda rgb: tile(rgb, 8)),
    "fine tile": ("tile", lambda rgb: tile(rgb, 2)),
    "blur": ("blur", lambda rgb: blur(rgb, 4.0)),
    "gray": ("gray", lambda rgb: luminance(rgb, 1.0)),
    "dark gray": ("gray", lambda rgb: luminance(rgb, 2.2)),
    "light gray": ("gray", lambda rgb: intensity(rgb, 0.5)),
    "color": ("color", color),
    "inpaint": ("inpaint", missing),
}
DEFECTS: dict[str, tuple[Change, str, dict[str, Any]]] = {
    "right": (lambda m: shifted(m, 4, 0), "shifted", {"shift": (4, 0)}),
    "left and down": (lambda m: shifted(m, -12, 7), "shifted", {"shift": (-12, 7)}),
    "mirror": (lambda m: m[:, ::-1], "flipped", {"orientation": "flipped horizontally"}),
    "upside down": (lambda m: m[::-1], "flipped", {"orientation": "flipped vertically"}),
    "quarter turn": (lambda m: np.rot90(m), "turned", {"orientation": "turned by 90 degrees anticlockwise"}),
    "smaller": (lambda m: unscaled(m, 1 / 0.9), "scaled", {"scale": pytest.approx(0.9, abs=0.011)}),
}
COARSE = ("color",)  # squares of 64 pixels tell no shift, and hardly a scale


def stored(picture: np.ndarray) -> np.ndarray:
    """As a dataset has it: a JPEG of it."""
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1], cv2.IMREAD_COLOR)


def test_every_kind_of_this_sort_is_tried() -> None:
    """The tests below hold for each of condprep.types.PICTURED."""
    assert {kind for kind, _ in MAPS.values()} == set(PICTURED)


@pytest.mark.parametrize("name", MAPS)
def test_right_maps_are_aligned(name: str) -> None:
    """A map lies on its own picture, whatever was lost and though the picture went through a JPEG."""
    kind, make = MAPS[name]
    for picture in map(photo, NAMES, [SIDE] * 4, [SIDE] * 4):
        found = compare_pictured(stored(picture), make(picture), kind)
        assert found.verdict == "aligned", found
        assert found.likeness is not None
        assert found.likeness > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_maps_of_other_pictures_are_told(name: str) -> None:
    """The map of another row does not belong to the picture."""
    kind, make = MAPS[name]
    pictures = [photo(one, SIDE, SIDE) for one in NAMES]
    for picture, other in zip(pictures, pictures[2:]):
        assert compare_pictured(picture, make(other), kind).verdict == "other picture"


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("name", [name for name in MAPS if name not in COARSE])
def test_defects_are_told(name: str, defect: str) -> None:
    """Every planted shift (to the pixel), flip, turn and scale is named as what it is, with the annotator (of every second) and without."""
    kind, make = MAPS[name]
    plant, verdict, values = DEFECTS[defect]
    picture = photo("coffee", SIDE, SIDE)
    planted = np.ascontiguousarray(plant(make(picture)))
    made = make(stored(picture)) if list(MAPS).index(name) % 2 else None
    found = compare_pictured(stored(picture), planted, kind, made)
    assert found.verdict == verdict, found
    for value, expected in values.items():
        assert getattr(found, value) == expected, found


@pytest.mark.parametrize("defect", ["mirror", "upside down", "quarter turn"])
def test_squares_of_colour_are_told_when_they_are_turned(defect: str) -> None:
    """64 squares of one colour are enough to tell a flip and a turn."""
    plant, verdict, _ = DEFECTS[defect]
    picture = photo("coffee")
    assert compare_pictured(picture, np.ascontiguousarray(plant(color(picture))), "color").verdict == verdict


def test_an_inverted_map_is_not_the_pictures() -> None:
    """A negative of the picture explains nothing of it."""
    picture = photo("coffee", SIDE, SIDE)
    assert compare_pictured(picture, 255 - tile(picture, 8), "tile").verdict == "other picture"


@pytest.mark.parametrize("kind", PICTURED)
def test_what_shows_nothing_is_unknown(kind: str) -> None:
    """Of a map of one level, of a picture of one level, and of one with another shape nothing is said."""
    flat, picture = np.full((96, 96, 3), 80, np.uint8), photo("coffee", 96, 96)
    for image, condition in ((picture, flat), (flat, flat), (picture, picture[:48])):
        assert compare_pictured(image, condition, kind).verdict == "unknown"


def test_tiny_pictures_are_compared_without_an_error() -> None:
    """From one pixel on, whatever the kind."""
    for side in (1, 2, 15, 16, 17):
        noise = np.random.default_rng(side).integers(0, 256, (side, side + 1, 3), np.uint8)
        for kind, make in MAPS.values():
            assert compare_pictured(noise, make(noise), kind).verdict in ("aligned", "unknown", "other picture")


@pytest.mark.parametrize("annotator", [None, *slow_ones(["inpaint"])])
def test_verify_tells_the_rows(tmp_path: Path, annotator: str | None) -> None:
    """A column that is called `inpaint` is held against the pixels of its pictures, and so it is with the annotator's name."""
    crops = [np.ascontiguousarray(photo(name)[y : y + SIDE, 60 : 60 + SIDE]) for name in NAMES for y in (10, 200)]
    maps = [missing(crop) for crop in crops]
    maps[1], maps[4] = np.ascontiguousarray(maps[1][:, ::-1]), shifted(maps[4], 2, 0)
    maps[6] = maps[0]
    column = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"image": encoded(p, "JPEG", quality=95), "inpaint": encoded(m, "PNG")} for p, m in zip(crops, maps)]
    stored = [{name: {"bytes": data, "path": None} for name, data in row.items()} for row in rows]
    schema = pa.schema({"image": column, "inpaint": column})
    pq.write_table(pa.Table.from_pylist(stored, schema), tmp_path / "rows.parquet")
    found = condprep.verify(tmp_path / "rows.parquet", checks=["alignment"], annotator=annotator)
    assert [(one.row, one.rule) for one in found.findings] == [(1, "flipped"), (4, "shifted"), (6, "other-picture")]
    assert found.notes[-1] == "alignment: of 8 rows compared 8 with the pixels of their picture"
