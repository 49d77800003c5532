"""The checks: clean pairs pass all of them, each defect is found by the check that is about it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from support.pictures import encoded, png16, with_orientation
from support.thorough import slow_ones

from condprep.annotators.canny import canny
from condprep.annotators.filters import blur, color, luminance, tile
from condprep.annotators.inpaint import holes
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.softedges import scribble
from condprep.dataset.pairs.open import Pair
from condprep.errors import UsageError
from condprep.types import CONDITION_KINDS, PICTURED
from condprep.verification import condition, structure
from condprep.verification.check import Context, configure
from condprep.verification.condition import OddKind, mixed_share
from condprep.verification.features import ACCEPTED, classify, inverted_kind, measure_features
from condprep.verification.groups import groups
from condprep.verification.opened import OpenedPair, open_picture
from condprep.verification.structure import DuplicateKeys, aspect_error
from condprep.verification.tokens import TokenCounter

COUNTER = TokenCounter(None)
SIDE = 512  # pixels


@cache
def photograph(name: str = "astronaut") -> np.ndarray:
    """(SIDE, SIDE, 3) uint8, cut from the middle of a photograph."""
    picture = getattr(data, name)()
    scale = SIDE / min(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:SIDE, :SIDE])


def soft_edges(picture: np.ndarray) -> np.ndarray:
    """What HED's maps look like: grey ridges some pixels wide, over faint texture."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 3)
    slope = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    return np.clip(slope * 2 - 25, 0, 255).astype(np.uint8)


def depth_of(picture: np.ndarray) -> np.ndarray:
    """What depth looks like: a floor that rises towards the viewer, and a few things on it with sharp outlines."""
    depth = np.linspace(20, 220, SIDE)[:, None].repeat(SIDE, 1)
    shape = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 18) > 120
    return np.where(shape, np.minimum(depth + 40, 255), depth).astype(np.uint8)


@cache
def depth() -> np.ndarray:
    """Of the photograph, not to be changed; many a parameter is made of it, whenever tests are collected."""
    return depth_of(photograph())


def normals_of(picture: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 12).astype(np.float32)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, *order) / 20 for order in ((1, 0), (0, 1))]
    vectors = np.dstack([np.ones_like(smooth), *slopes])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) * 127.5 + 127.5, np.uint8)


def pose(_: np.ndarray) -> np.ndarray:
    body = [(128, 40), (128, 70), (100, 72), (85, 110), (80, 150), (156, 72), (170, 110), (176, 150), (112, 150)]
    body += [(110, 195), (108, 240), (144, 150), (146, 195), (148, 240), (122, 34), (134, 34), (114, 38), (142, 38)]
    return draw_bodies([np.array([(2 * x, 2 * y, 1) for x, y in body], float)], SIDE, SIDE)


def segments(picture: np.ndarray) -> np.ndarray:
    from skimage.segmentation import slic

    labels = slic(picture, 12, compactness=5, channel_axis=-1)
    return np.random.default_rng(1).integers(0, 256, (labels.max() + 1, 3), np.uint8)[labels]


MAKERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": lambda picture: canny(picture, 100, 200),
    "scribble": lambda picture: scribble(soft_edges(picture)),
    **{"softedge": soft_edges, "depth": depth_of, "normal": normals_of, "pose": pose, "segmentation": segments},
    "picture": lambda picture: picture,
}


PICTURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # kinds that are the picture itself, less something
    **{"tile": lambda picture: tile(picture, 8), "blur": lambda picture: blur(picture, 8.0), "color": color},
    "gray": lambda picture: luminance(picture, 1.0),
    "inpaint": lambda picture: np.where(holes("a", *picture.shape[:2], 40, 40)[..., None], np.uint8(0), picture),
}


def three(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)


@cache
def _portrait() -> bytes:
    return encoded(photograph(), "PNG")


def scores(condition: bytes, image: bytes | None = None, said: str | None = None, **pair: Any) -> dict[str, Any]:
    image = image or _portrait()
    found = Pair(0, "a", image, condition, **({"caption": "a woman"} | pair))
    opened = OpenedPair(found, *map(open_picture, (image, condition)))
    context = Context(said, captioned=True, keyed=True, tokens=COUNTER)
    return {name: value for group in groups() for name, value in group.measure(opened, context).items()}


def broken(measured: dict[str, Any]) -> set[str]:
    """The rules of structure and condition that a pair breaks."""
    return {
        check.name for group in (structure.STRUCTURE, condition.CONDITION) for check in group.checks if check(measured)
    }


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_map_looks_like_its_kind(kind: str, name: str) -> None:
    """Maps of every kind, of three photographs and mirrored, are told by their pixels alone."""
    made = three(MAKERS[kind](photograph(name)))
    assert classify(measure_features(made)) == kind
    assert classify(measure_features(made[:, ::-1])) == kind


@pytest.mark.parametrize("kind", CONDITION_KINDS)
def test_clean_pairs_pass(kind: str) -> None:
    """A clean pair breaks no rule, whether the dataset says its kind or not."""
    for said in (kind, None):
        assert (
            broken(scores(encoded((MAKERS | PICTURES | {"lineart": soft_edges})[kind](photograph()), "PNG"), said=said))
            == set()
        )


@pytest.mark.parametrize("kind", [*PICTURED][:2] + slow_ones([*PICTURED][2:]))
def test_light_and_dark_pictures_have_such_maps(kind: str) -> None:
    """A drawing on white paper and a picture at night are no inverted maps and no dark ones where the map is the picture itself."""
    paper, night = 255 - three(canny(photograph(), 100, 200)), photograph() // 8
    for picture in (paper, night):
        assert broken(scores(encoded(PICTURES[kind](picture), "PNG"), encoded(picture, "PNG"), kind)) == set()


@pytest.mark.parametrize(
    ("said", "made"), [("tile", "canny"), ("blur", "scribble"), ("gray", "pose"), ("gray", "normal")]
)
def test_what_such_a_map_cannot_look_like(said: str, made: str) -> None:
    """Two levels are no picture without details, and colours no grey one."""
    assert "kind" in broken(scores(encoded((MAKERS | PICTURES)[made](photograph()), "PNG"), said=said))


@pytest.mark.parametrize("kind", ["canny", "softedge", "pose", "normal"])
def test_inverted_maps_are_found_and_upright_ones_are_not(kind: str) -> None:
    """Dark on light is `polarity`, and only that: the kind of the map is still known."""
    made = MAKERS[kind](photograph())
    assert broken(scores(encoded(255 - made, "PNG"), said=kind)) >= {"polarity"}
    assert inverted_kind(three(made), measure_features(three(made))) is None


def smaller(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(cv2.resize(pixels, (SIDE * 3 // 4,) * 2), (SIDE, SIDE))


@pytest.mark.parametrize(("kind", "rule"), [("canny", "grey-levels"), ("pose", "mixed-colours")])
def test_resampled_and_compressed_maps_are_found(kind: str, rule: str) -> None:
    """What is drawn in two levels, or in flat colours, shows resizing and JPEG; the reason tells which it was."""
    made = MAKERS[kind](photograph())
    check = next(check for group in groups() for check in group.checks if check.name == rule)
    for data_, cause in ((encoded(smaller(made), "PNG"), "resized"), (encoded(made, "JPEG", quality=80), "JPEG")):
        reason = check(scores(data_, said=kind))
        assert reason
        assert cause in reason


def test_binary_maps_that_became_grey_are_suspected_without_a_word() -> None:
    """Where the dataset does not say that its maps are binary, thin grey lines are a warning, and soft edges are not."""
    made = MAKERS["canny"](photograph())
    assert broken(scores(encoded(smaller(made), "PNG"))) == {"was-binary"}
    assert broken(scores(encoded(soft_edges(photograph()), "PNG"))) == set()


@pytest.mark.parametrize(
    ("pixels", "rule"),
    [
        (np.zeros((SIDE, SIDE), np.uint8), "constant"),
        (np.full((SIDE, SIDE), 200, np.uint8), "constant"),
        (MAKERS["canny"](photograph()) // 255, "constant"),
        (soft_edges(photograph()) // 8, "range"),
        (100 + depth() // 16, "flat-depth"),
        (photograph(), "copy"),
        (photograph(), "kind"),
        (pose(photograph()), "kind"),
    ],
)
def test_maps_that_show_nothing_or_something_else(pixels: np.ndarray, rule: str) -> None:
    """Empty, 0..1, nearly black, flat, the picture itself, another kind: each is found by its rule."""
    said = "depth" if rule in ("flat-depth", "copy", "kind") else None
    assert rule in broken(scores(encoded(pixels, "PNG"), said=said))


@pytest.mark.parametrize(
    ("condition", "rule"),
    [
        (encoded(depth()[:-8, :-8], "PNG"), "size"),
        (encoded(cv2.resize(depth(), (256, 256)), "PNG"), "size"),
        (encoded(depth()[:-8], "PNG"), "aspect"),
        (encoded(depth(), "PNG")[:-100], "readable"),
        (b"no picture", "readable"),
        (b"", "readable"),
        (png16(depth().astype(np.uint16) * 257), "bits"),
        (encoded(np.dstack([three(depth()), depth()]), "PNG"), "mode"),
        (with_orientation(three(depth()), "PNG", 6), "orientation"),
        (with_orientation(three(depth()), "PNG", 3), "orientation"),
    ],
)
def test_structure_of_a_map(condition: bytes, rule: str) -> None:
    """Each defect of how a map is stored breaks the rule that is about it, and no other of structure."""
    structure = {check.name for check in groups()[0].checks}
    assert broken(scores(condition)) & structure == {rule}


@pytest.mark.parametrize(
    ("caption", "rule"),
    [
        (None, {"caption"}),
        (7, {"caption"}),
        (["a", None], {"caption"}),
        ("", {"no-caption"}),
        ([], {"no-caption"}),
        ("a dog\ufffds bowl", {"garbled"}),
        (["a dog", "\0h\0i"], {"garbled"}),
        ("word " * 75, set()),
        ("word " * 76, {"truncated"}),
        (["short", "word " * 76], {"truncated"}),
        ("x" * 10_000_000, set()),
    ],
)
def test_captions(caption: Any, rule: set[str]) -> None:
    """Null and what is no text; empty; more than 77 tokens, of several captions the longest; and 10 MB in no time."""
    assert broken(scores(encoded(depth(), "PNG"), caption=caption)) == rule


def test_sides_off_the_grid() -> None:
    """A picture whose side is no multiple of 8 is a warning; with --set structure.multiple=2 it is not."""
    image = encoded(photograph()[:506], "PNG")
    measured = scores(encoded(depth()[:506], "PNG"), image)
    assert broken(measured) == {"grid"}
    changed = configure(groups(), {"structure": {"multiple": "2"}})
    assert not any(check(measured) for group in changed[:2] for check in group.checks)


@given(st.integers(8, 2000), st.integers(8, 2000), st.integers(1, 4))
def test_scaling_alone_is_no_error_of_aspect(width: int, height: int, factor: int) -> None:
    """A map at a whole multiple of the picture's size has exactly its shape; one pixel more or less is within one pixel."""
    assert aspect_error((width, height), (width * factor, height * factor)) < 1e-6
    assert aspect_error((width, height), (width, height)) == 0
    longer = (width + 1, height) if width >= height else (width, height + 1)
    assert aspect_error((width, height), longer) == 1


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("normal", "pose", "segmentation", "picture")])
def test_the_short_way_of_grey_maps_is_the_same(kind: str) -> None:
    """Knowing that a map is grey makes measuring faster, and changes nothing that is judged."""
    made = three(MAKERS[kind](photograph()))
    short, full = measure_features(made, grey=True), measure_features(made)
    ignored = {"unit", "facing"}  # of coloured maps
    assert {n: getattr(short, n) for n in short.__slots__ if n not in ignored} == {
        n: getattr(full, n) for n in full.__slots__ if n not in ignored
    }
    assert classify(short) == classify(full)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 1000)])
def test_maps_of_any_size_are_measured(shape: tuple[int, int]) -> None:
    """The smallest and the narrowest map have features and a kind, or none."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert classify(measure_features(noise)) in (None, "blank", "picture", "colours", *CONDITION_KINDS)
    assert 0 <= mixed_share(noise) <= 1 if min(shape) > 2 else True


def test_rows_of_another_kind_than_the_rest() -> None:
    """One pose among twenty Canny maps is found by its number; where the kinds are mixed evenly nobody is odd."""
    kinds = ["canny"] * 20
    kinds[7] = "pose"
    assert [row for row, _ in surveyed(OddKind(), kinds)] == [7]
    assert surveyed(OddKind(), ["canny", "pose"] * 10) == []
    assert surveyed(OddKind(), ["canny"] * 20 + [None, "blank"]) == []


def surveyed(survey: OddKind, kinds: Sequence[str | None]) -> list[tuple[int, str]]:
    for kind in kinds:
        survey.add({"kind": kind, "said": None, "inverted": None})
    return list(survey.finish())


@given(st.lists(st.integers(0, 6), max_size=40))
def test_duplicates_are_the_rows_after_the_first(keys: list[int]) -> None:
    """Of equal keys every row but the first is found, and names the first."""
    survey = DuplicateKeys()
    for key in keys:
        survey.add({"key_hash": key})
    expected = [
        (row, f"row {keys.index(key)} has the same key") for row, key in enumerate(keys) if keys.index(key) < row
    ]
    assert list(survey.finish()) == expected


@pytest.mark.parametrize(
    ("group", "threshold", "value", "says"),
    [
        ("structur", "multiple", "8", "did you mean structure?"),
        ("structure", "multipel", "8", "did you mean multiple?"),
        ("structure", "multiple", "8.5", "an integer from 0 on (default 8)"),
        ("structure", "max_aspect_error", "-1", "a number from 0 on (default 1)"),
        ("structure", "max_aspect_error", "nan", "a number from 0 on"),
        ("condition", "max_mixed", "2", "a share from 0 to 1 (default 0.25)"),
        ("condition", "max_mixed", "half", "max_mixed=half"),
    ],
)
def test_wrong_thresholds_are_explained(group: str, threshold: str, value: str, says: str) -> None:
    """An unknown check or threshold gets the nearest name, a wrong value its range and default."""
    with pytest.raises(UsageError) as error:
        configure(groups(), {group: {threshold: value}})
    assert says in str(error.value)


def test_checks_can_be_pickled() -> None:
    """Every check crosses a process border and judges as before."""
    measured = scores(encoded(np.zeros((8, 8), np.uint8), "PNG"))
    for group in groups():
        for check in group.checks:
            assert pickle.loads(pickle.dumps(check))(measured) == check(measured)


def test_scores_are_those_that_are_declared() -> None:
    """Every group returns the columns that it declares, also of pairs that cannot be read."""
    for stored in (encoded(depth(), "PNG"), b"no picture"):
        assert scores(stored).keys() >= {name for group in groups() for name in group.scores}
    assert all(set(accepted) <= {*CONDITION_KINDS, "colours", "picture"} for accepted in ACCEPTED.values())
