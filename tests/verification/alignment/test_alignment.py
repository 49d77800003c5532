"""Alignment in `verify`: defects are told by rule and in words, with the annotator and without; columns out of step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from skimage import data
from support.pictures import encoded

import condprep
from condprep.dataset.pairs.open import Pair
from condprep.verification.alignment.checks import ALIGNMENT, OtherPicture, OutOfStep, Scaled, Shifted
from condprep.verification.alignment.registration import unscaled
from condprep.verification.check import Context
from condprep.verification.findings import VerifyResult
from condprep.verification.opened import open_pair
from condprep.verification.tokens import TokenCounter
from condprep.weights.find import Weights

SIDE, ROWS = 256, 24
NAMES = ("astronaut", "chelsea", "coffee", "rocket")
DEFECTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {  # rule -> what is planted, what is said
    "shifted": (lambda m: moved(m, 4, 0), "condition is shifted by (+4, 0) px"),
    "flipped": (lambda m: m[:, ::-1], "condition is flipped horizontally"),
    "turned": (lambda m: np.rot90(m), "condition is turned by 90 degrees anticlockwise"),
    "scaled": (lambda m: unscaled(m, 1 / 0.9), "condition is scaled by 0.90 about its centre and shifted by (0, 0) px"),
    "cropped": (lambda m: cv2.resize(m[20:220, 28:228], (SIDE, SIDE)), "condition shows only (28, 20) to (2"),
}


def moved(pixels: np.ndarray, dx: int, dy: int) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(pixels, matrix, pixels.shape[1::-1], flags=cv2.INTER_NEAREST)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops of four photographs, neighbours of different ones, with their Canny maps."""
    made = []
    for n in range(ROWS):
        picture = cv2.resize(getattr(data, NAMES[n % 4])(), (640, 480), interpolation=cv2.INTER_AREA)
        y, x = 37 * (n // 4), 61 * (n // 4)
        crop = np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE])
        made.append((crop, cv2.Canny(crop, 100, 200)))
    return made


def verified(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], folder: Path, annotator: str | None = None, **how: Any
) -> VerifyResult:
    """What alignment finds in a Parquet file of these pairs, the pictures stored as JPEG."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {
            "image": {"bytes": encoded(p, "JPEG", quality=95), "path": None},
            "canny": {"bytes": encoded(m, "PNG"), "path": None},
        }
        for p, m in pairs
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({"image": image, "canny": image})), folder / "rows.parquet")
    return condprep.verify(
        folder / "rows.parquet", checks=["alignment"], annotator=annotator, weights=Weights(offline=True), **how
    )


@pytest.mark.parametrize("annotator", ["canny", None])
def test_each_defect_is_told_in_its_row(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, annotator: str | None
) -> None:
    """With the annotator and without: each defect is a finding of its rule, in words, and the other rows have none."""
    rows = list(pairs)
    for row, (plant, _) in enumerate(DEFECTS.values()):
        rows[2 * row] = (rows[2 * row][0], np.ascontiguousarray(plant(rows[2 * row][1])))
    rows[15] = (rows[15][0], pairs[20][1])
    found = [(one.row, one.rule, one.reason) for one in verified(rows, tmp_path, annotator).findings]
    assert [one[:2] for one in found] == [*((2 * n, rule) for n, rule in enumerate(DEFECTS)), (15, "other-picture")]
    assert all(reason.startswith(words) for (_, _, reason), (_, words) in zip(found, DEFECTS.values()))


@pytest.mark.parametrize("annotator", ["canny", None])
def test_right_pairs_have_no_findings(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, annotator: str | None
) -> None:
    """Nothing is wrong with maps of the pixels before JPEG, and a note says how many rows were compared with what."""
    result = verified(pairs, tmp_path, annotator)
    assert list(result.findings) == []
    how = "the maps that canny makes of them" if annotator else "the gradients of their picture"
    assert result.notes[-1] == f"alignment: of {ROWS} rows compared {ROWS} with {how}"


@pytest.mark.slow
def test_two_pixels_are_told_with_the_annotator_alone(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> None:
    """A map made again tells 2 px in every row; the picture alone does not, unless its threshold is lowered."""
    rows = [(picture, moved(stored, 0, 2)) for picture, stored in pairs]

    def told(annotator: str | None = None, **how: Any) -> list[str]:
        return [one.reason for one in verified(rows, tmp_path, annotator, **how).findings if one.rule == "shifted"]

    assert told("canny") == ["condition is shifted by (0, +2) px"] * ROWS
    assert told() == []
    assert len(told(settings={"alignment": {"min_shift": 2}})) == ROWS


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda m: moved(m, 0, 2), "shifted by (0, +2) px, "),
        (lambda m: unscaled(m, 1 / 1.015), "scaled by 1.015 about their centre, "),
    ],
)
def test_all_rows_together_tell_what_none_of_them_shows(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, plant: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    """A shift of 2 px or a scale of 1.5 % that all share is one finding of them together, with no annotator at hand."""
    found = verified([(picture, plant(stored)) for picture, stored in pairs], tmp_path).findings
    ((row, reason),) = [(one.row, one.reason) for one in found if one.rule == "shared-shift"]
    assert row == 0
    assert reason.startswith(f"the maps together are {words}")
    assert f"over {ROWS} rows" in reason
    assert reason.endswith("they would lie right")


def test_parameters_of_the_annotator_are_heeded(pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path) -> None:
    """`--set canny.low=` goes to the annotator: with the thresholds that made the maps, these are more alike."""
    rows = [(picture, cv2.Canny(picture, 20, 60)) for picture, _ in pairs[:4]]
    right, wrong = (
        pq.read_table(verified(rows, tmp_path, "canny", settings={"canny": values}).scores)["likeness"].to_pylist()
        for values in ({"low": "20", "high": "60"}, {"low": "100", "high": "200"})
    )
    assert all(a > b for a, b in zip(right, wrong))


@pytest.mark.slow
def test_a_shuffled_column_and_one_out_of_step_are_told(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> None:
    """Maps that belong to the row after from row 8 on, and shuffled ones, are findings of their first row."""
    maps = [stored for _, stored in pairs]
    late = [*maps[:8], *maps[9:], maps[8]]
    mixed = [maps[n] for n in np.random.default_rng(0).permutation(ROWS)]
    reasons = []
    for column in (late, mixed):
        result = verified([(picture, stored) for (picture, _), stored in zip(pairs, column)], tmp_path)
        reasons += [(one.row, one.reason) for one in result.findings if one.rule == "out-of-step"]
    assert reasons == [
        (8, "condition and image columns off by one from row 8: each map belongs to the picture one after it"),
        (0, "condition and image columns do not belong together from row 0"),
    ]


def test_rows_that_fit_are_not_out_of_step() -> None:
    """Where most maps of a run fit their own picture, coarse resemblance of others proves nothing."""
    rng = np.random.default_rng(0)
    descriptors = rng.integers(-127, 128, (60, 2, 512)).astype(np.int8)
    for verdict, findings in (("aligned", 0), ("other picture", 1), ("unknown", 1)):
        survey = OutOfStep()
        for both in descriptors:
            survey.add({"alignment": verdict, "descriptors": tuple(both)})
        assert len(list(survey.finish())) == findings


def test_thresholds_judge_the_scores() -> None:
    """Shifts, scalings and likenesses are judged against the thresholds, those of the way in which they were compared."""
    scores = dict.fromkeys(ALIGNMENT.scores) | {"misfit": "condition ...", "shift_x": 0, "shift_y": -2, "scale": 0.995}
    shifted = scores | {"alignment": "shifted", "compared_with": "made again"}
    assert Shifted()(shifted)
    assert not Shifted(min_known_shift=3)(shifted)
    assert not Shifted()(shifted | {"compared_with": "picture"})
    assert Shifted(min_shift=2)(shifted | {"compared_with": "picture"})
    scaled = scores | {"alignment": "scaled"}
    assert not Scaled()(scaled)
    assert Scaled(min_scaling=0.004)(scaled)
    for measured in ({"compared_with": "picture", "here": 6.0}, {"compared_with": "made again", "likeness": 0.2}):
        aligned = scores | {"alignment": "aligned"} | measured
        assert not OtherPicture()(aligned)
        assert OtherPicture(min_fit=7, min_likeness=0.3)(aligned)
        assert not OtherPicture()(aligned | {"alignment": "unknown"})


@pytest.mark.parametrize("side", [1, 2, 9])
def test_what_cannot_be_compared_has_no_finding(side: int) -> None:
    """Unreadable, tiny, empty and squeezed pairs break no rule of alignment."""
    context = Context(None, False, False, TokenCounter(None))
    picture, small = encoded(data.astronaut()), encoded(data.astronaut()[:side, :side])
    squeezed = encoded(cv2.Canny(data.astronaut(), 100, 200)[:300])
    black = encoded(np.zeros((512, 512), np.uint8))
    for both in ((b"no picture", picture), (picture, b"no map"), (small, small), (picture, black), (picture, squeezed)):
        scores = ALIGNMENT.measure(open_pair(Pair(0, "a", *both)), context)
        assert not any(check(scores) for check in ALIGNMENT.checks)
        assert scores["alignment"] in (None, "unknown", "aligned")
