"""What numbers mean: each cause is told from the others, and has its advice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.painters import FALLING, STILL

from trainer.evaluation.diagnosis import Numbers, diagnose, plateau, share


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10))
def test_a_share_is_a_place_between_two_scores(value: float, chance: float, best: float) -> None:
    """0 at chance, 1 at the best, the same when lower is better, NaN where there is no between."""
    if abs(best - chance) < 1e-9:
        assert math.isnan(share(value, chance, best))
    else:
        assert share(chance, chance, best) == 0
        assert share(best, chance, best) == 1
        assert share(-value, -chance, -best) == pytest.approx(share(value, chance, best))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (Numbers(follows=0.9), ["follows"]),
        (Numbers(follows=0.02), ["ignoring"]),
        (Numbers(follows=0.3, clear=False), ["ignoring"]),
        (Numbers(follows=0.3, train=0.9), ["memorising"]),
        (Numbers(follows=0.8, train=0.9), ["follows"]),
        (Numbers(follows=0.4, losses=FALLING), ["follows in part"]),
        (Numbers(follows=0.4, losses=STILL), ["plateau"]),
        (Numbers(follows=0.9, losses=STILL), ["follows"]),
        (Numbers(follows=0.9, sharpness=0.4), ["blurry"]),
        (Numbers(follows=0.9, foreign=0.4), ["leans on captions"]),
        (Numbers(follows=0.9, vae=0.3), ["lost in the VAE"]),
        (Numbers(follows=0.05, real=0.1), ["maps do not belong", "ignoring"]),
        (Numbers(follows=0.05, kinds=("canny", "depth")), ["wrong kind", "ignoring"]),
        (Numbers(follows=0.9, kinds=("canny", None)), ["follows"]),
        (Numbers(follows=math.nan), ["not measured"]),
        (Numbers(follows=math.nan, vae=0.0), ["lost in the VAE"]),
    ],
)
def test_a_diagnosis(numbers: Numbers, expected: list[str]) -> None:
    """Each cause is told from the others, and has its advice."""
    findings = diagnose(numbers)
    assert [finding.name for finding in findings] == expected
    assert all(finding.advice or finding.name == "follows" for finding in findings)


def test_the_condition_gap_tells_late_from_never() -> None:
    """Where the loss already tells right from wrong conditions, the advice is patience."""
    (late,), (never,) = (diagnose(Numbers(follows=0.0, condition_gap=gap)) for gap in (1.5, 1.01))
    assert "train longer: pictures follow later" in late.advice
    assert "1.01 x" in never.says


def test_a_plateau_needs_points_and_stillness() -> None:
    """A falling loss is none, nor are a few points."""
    assert plateau(STILL)
    assert not plateau(FALLING)
    assert not plateau(STILL[:5])
