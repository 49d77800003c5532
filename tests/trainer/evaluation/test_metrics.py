"""The measures of fidelity: what they give is what can be computed by hand, and they keep their laws on any maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from condprep.annotators.openpose.keypoints import JOINTS, Body
from trainer.evaluation.intervals import RESAMPLES, Interval, interval, interval_of
from trainer.evaluation.metrics import Map, depth_rmse, edge_f1, ms_ssim, rank_correlation, ssim
from trainer.evaluation.poses import AveragePrecision, as_coco, matched, mean_oks, oks, pck
from trainer.evaluation.scores import MEASURES, Condition, compare, summarise

edges = arrays(np.uint8, (24, 24), elements=st.sampled_from((0, 0, 0, 255)))
greys = arrays(np.uint8, (24, 24), elements=st.integers(0, 255))


def line(row: int, size: int = 64) -> Map:
    pixels = np.zeros((size, size), np.uint8)
    pixels[row] = 255
    return pixels


def person(x: float = 50, y: float = 40, size: float = 40) -> Body:
    """Eighteen points on a grid, all there."""
    points = np.array([(n % 6 / 5, n // 6 / 2) for n in range(18)]) * size + (x, y)
    return np.column_stack([points, np.full(18, 0.9)]).astype(np.float32)


@settings(deadline=None)
@given(edges, edges, st.sampled_from((0, 1, 1.5, 2, 5)))
def test_f1_keeps_its_laws(made: Map, wanted: Map, tolerance: float) -> None:
    """Within 0..1, symmetric, 1 for the same map, and never lower with more tolerance."""
    found = edge_f1(made, wanted, tolerance)
    assert 0 <= found <= 1
    assert found == pytest.approx(edge_f1(wanted, made, tolerance))
    assert edge_f1(made, made, tolerance) == 1
    assert edge_f1(made, wanted, tolerance + 1) >= found - 1e-12


@settings(deadline=None)
@given(edges, edges)
def test_f1_without_tolerance_is_the_f1_of_pixels(made: Map, wanted: Map) -> None:
    """At 0 px it is 2 TP / (2 TP + FP + FN)."""
    both, any_of = (made & wanted).astype(bool).sum(), made.astype(bool).sum() + wanted.astype(bool).sum()
    assert edge_f1(made, wanted, 0) == pytest.approx(2 * both / any_of if any_of else 1)


@pytest.mark.parametrize(("shift", "expected"), [(0, (1, 1, 1)), (1, (0, 1, 1)), (2, (0, 0, 1)), (3, (0, 0, 0))])
def test_a_shifted_line_is_found_within_its_shift(shift: int, expected: tuple[int, ...]) -> None:
    """A line moved by n pixels is right from n pixels of tolerance on."""
    assert tuple(edge_f1(line(20 + shift), line(20), tolerance) for tolerance in (0, 1, 2)) == expected


def test_f1_of_half_a_line_is_that_of_its_precision_and_recall() -> None:
    """Half of the edges found and none wrong: precision 1, recall 1/2, F1 2/3."""
    half = line(20)
    half[:, 32:] = 0
    assert edge_f1(half, line(20), 0) == pytest.approx(2 / 3)


def test_empty_maps_are_judged() -> None:
    """Nothing where nothing was wanted is right; nothing instead of something, or the reverse, is wrong."""
    empty = np.zeros((64, 64), np.uint8)
    assert edge_f1(empty, empty, 2) == 1
    assert edge_f1(empty, line(3), 2) == edge_f1(line(3), empty, 2) == 0


def test_colours_count_as_their_grey() -> None:
    """A map stored as three equal channels scores as the grey one."""
    coloured = np.repeat(line(20)[..., None], 3, axis=2)
    assert edge_f1(coloured, line(21), 1) == edge_f1(line(20), line(21), 1) == 1


@settings(max_examples=25, deadline=None)
@given(greys, greys)
def test_ssim_keeps_its_laws(made: Map, wanted: Map) -> None:
    """At most 1, which the same map has, and symmetric."""
    assert ssim(made, made) == pytest.approx(1, abs=1e-5)
    assert ssim(made, wanted) <= 1 + 1e-5
    assert ssim(made, wanted) == pytest.approx(ssim(wanted, made), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_a_grey_map_is_one_of_three_equal_channels(measure: Any) -> None:
    """As an annotator gives it, held against what a dataset has stored of it, on either side."""
    made, wanted = (np.random.default_rng(seed).integers(0, 255, (192, 192), dtype=np.uint8) for seed in range(2))
    alike = measure(made, wanted)
    assert measure(made, wanted[..., None].repeat(3, 2)) == pytest.approx(alike, abs=1e-9)
    assert measure(made[..., None].repeat(3, 2), wanted) == pytest.approx(alike, abs=1e-9)


def test_ssim_is_that_of_another_implementation() -> None:
    """scikit-image's SSIM with the same window, borders included, within a thousandth."""
    from skimage import data
    from skimage.metrics import structural_similarity

    made, wanted = data.camera()[:192, :192], data.camera()[4:196, 2:194]
    _, theirs = structural_similarity(
        made, wanted, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim(made, wanted) == pytest.approx(theirs.mean(), abs=1e-3)


def test_ms_ssim_needs_its_five_scales() -> None:
    """1 for the same map, lower for a changed one, and NaN where five scales do not fit."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 255, (192, 192), dtype=np.uint8)
    assert ms_ssim(made, made) == pytest.approx(1, abs=1e-5)
    assert 0 <= ms_ssim(made, np.flipud(made).copy()) < 0.9
    assert math.isnan(ms_ssim(made[:160], made[:160]))


@settings(deadline=None)
@given(greys, greys)
def test_depth_has_no_scale_of_its_own(made: Map, wanted: Map) -> None:
    """RMSE within 0..255, symmetric, 0 for the same map and for one of half the contrast (up to its rounding)."""
    assert 0 <= depth_rmse(made, wanted) <= 255
    assert depth_rmse(made, wanted) == pytest.approx(depth_rmse(wanted, made))
    assert depth_rmse(made, made) == 0
    stretched = made // 2 * 2
    assert depth_rmse(stretched // 2 + 40, stretched) == pytest.approx(0, abs=1e-9) or np.ptp(stretched) < 4


def test_a_known_depth_error() -> None:
    """Near and far exchanged in a map of two halves: every pixel is 255 off, and the order is reversed."""
    wanted = np.zeros((32, 32), np.uint8)
    wanted[16:] = 80
    assert depth_rmse(80 - wanted, wanted) == 255
    assert rank_correlation(80 - wanted, wanted) == pytest.approx(-1)


@settings(deadline=None)
@given(greys)
def test_rank_correlation_sees_order_alone(made: Map) -> None:
    """Any increasing change of the levels keeps it at 1; a flat map agrees with flat maps alone."""
    levels, ranks = np.unique(made, return_inverse=True)
    flat = np.zeros_like(made)
    assert rank_correlation(flat, flat) == 1
    if len(levels) > 1:
        assert rank_correlation(made, ranks.reshape(made.shape).astype(np.uint8)) == pytest.approx(1)
        assert rank_correlation(made, flat) == rank_correlation(flat, made) == 0


def test_a_body_is_compared_in_cocos_order() -> None:
    """Nose, left eye, right eye ... of OpenPose's points, and no neck."""
    body = np.zeros((18, 3), np.float32)
    body[JOINTS.index("left_eye")], body[JOINTS.index("neck")] = (1, 2, 1), (9, 9, 1)
    assert as_coco(body)[1].tolist() == [1, 2, 1]
    assert not (as_coco(body) == 9).any()


def test_oks_of_a_shift_is_cocos_formula() -> None:
    """exp(-d^2 / (2 area (2 sigma)^2)), the mean over the 17 points."""
    made, wanted = person(x=53), person(x=50)
    area = 40 * 40
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    assert oks(made, wanted) == pytest.approx(np.exp(-9 / (2 * area * (2 * sigmas) ** 2)).mean(), abs=1e-4)
    assert oks(wanted, wanted) == 1


def test_missing_points_and_people_count_as_wrong() -> None:
    """A missing point takes its share of the OKS; a person too few or too many halves the mean of two."""
    whole, partly = person(), person()
    partly[JOINTS.index("nose")] = 0
    assert oks(partly, whole) == pytest.approx(16 / 17)
    assert mean_oks([whole], [whole, person(x=200)]) == pytest.approx(0.5)
    assert mean_oks([whole, person(x=200)], [whole]) == pytest.approx(0.5)
    assert mean_oks([], []) == 1
    assert mean_oks([whole], []) == mean_oks([], [whole]) == 0


def test_people_are_matched_whatever_their_order() -> None:
    """Each person with the one that they are most like, none twice."""
    a, b, c = person(), person(x=150), person(x=300)
    pairs = matched([c, a], [a, b, c])
    assert sorted((int(made[0, 0]), int(wanted[0, 0])) for made, wanted, _ in pairs) == [(50, 50), (300, 300)]


def test_pck_counts_the_points_within_a_tenth_of_the_person() -> None:
    """A person 40 px tall: points 3.9 px off are right, points 4.1 px off are not; without a match there is no value."""
    assert pck([person(x=53.9)], [person()]) == 1
    assert pck([person(x=54.1)], [person()]) == 0
    off = person()
    off[JOINTS.index("nose"), 0] += 30
    assert pck([off], [person()]) == pytest.approx(16 / 17)
    assert math.isnan(pck([person(x=500)], [person()]))


def test_average_precision_is_cocos() -> None:
    """1 for the same people, 0 for nobody; one of two found is precision 1 up to recall 1/2: 51 of 101 points."""
    crowd = [[person()], [person(x=150), person(x=20)], []]
    assert AveragePrecision(crowd, crowd)() == pytest.approx(1)
    assert AveragePrecision([[], [], []], crowd)() == 0
    assert AveragePrecision([[person()], []], [[person()], [person()]])() == pytest.approx(51 / 101, abs=1e-6)
    assert math.isnan(AveragePrecision([[]], [[]])())


def test_average_precision_of_drawn_pictures() -> None:
    """A picture that is drawn twice counts twice."""
    precision = AveragePrecision([[person()], []], [[person()], [person()]])
    assert precision([0, 0]) == pytest.approx(1)
    assert precision([1, 1]) == 0
    assert precision() == pytest.approx(51 / 101, abs=1e-6)


def test_an_interval_is_reproducible_and_holds_the_mean() -> None:
    """The same values and seed give the same interval; NaN rows are left out; equal values leave no doubt."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 50)
    found = interval(values, seed=3)
    assert found == interval(values, seed=3) != interval(values, seed=4)
    assert found.low < found.mean < found.high
    assert interval([*values, math.nan], seed=3) == found
    assert interval([0.25] * 8) == Interval(0.25, 0.25, 0.25, 8)
    assert interval([math.nan]).rows == 0


@pytest.mark.parametrize("rows", [2, 7, 100])
def test_an_interval_is_that_of_scipy(rows: int) -> None:
    """scipy's percentile bootstrap with as many resamples, of a mean and of any other statistic."""
    from scipy.stats import bootstrap

    values = np.random.default_rng(rows).gamma(2, 0.1, rows)
    how: Any = {"method": "percentile", "confidence_level": 0.95}
    ours = interval(values, seed=3)
    theirs = bootstrap((values,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(3), **how)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)
    few = interval_of(lambda some: float(np.median(values if some is None else values[some])), rows, seed=3)
    theirs = bootstrap((values,), np.median, n_resamples=RESAMPLES // 5, rng=np.random.default_rng(3), **how)
    assert (few.low, few.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 200 samples of 100 rows, 95 % intervals hold the true mean in about 95 %."""
    rng = np.random.default_rng(1)
    found = [interval(rng.normal(0, 1, 100), seed) for seed in range(200)]
    assert 0.90 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.99


def test_an_interval_of_a_statistic() -> None:
    """Of the mean as a statistic it is about that of `interval`, and its value is that of all rows."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 80)
    found = interval_of(lambda rows: float(values[rows].mean() if rows else values.mean()), 80)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(interval(values).high - interval(values).low, rel=0.25)


@pytest.mark.parametrize("kind", [*MEASURES, "normal", "segmentation", None])
def test_every_kind_has_its_measures(kind: str | None) -> None:
    """The same map is perfect in all measures of its kind."""
    pixels = np.random.default_rng(0).integers(0, 255, (192, 192), dtype=np.uint8)
    scores = compare(kind, Condition(pixels), Condition(pixels))
    assert scores
    assert all(value == pytest.approx(0 if name == "depth_rmse" else 1, abs=1e-5) for name, value in scores.items())


def test_poses_are_compared_by_people_and_else_by_pixels() -> None:
    """With keypoints OKS, PCK and, over all rows, AP; maps without keypoints by SSIM."""
    canvas = np.zeros((64, 64, 3), np.uint8)
    with_people: list[Any] = [Condition(canvas, [person()]), Condition(canvas, [])]
    rows = [compare("pose", one, one) for one in with_people]
    found = summarise("pose", rows, with_people, with_people, seed=0)
    assert {name: one.mean for name, one in found.items()} == {"oks": 1, "pck": 1, "ap": pytest.approx(1)}
    assert found["pck"].rows == 1
    assert set(compare("pose", Condition(canvas), Condition(canvas))) == {"ssim"}
