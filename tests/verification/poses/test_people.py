"""Maps of unknown origin: who is drawn, where a network is asked to look, and what its answer says of the map."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.drawings import body, shifted

from condprep.annotators.openpose.draw import draw_bodies
from condprep.verification.poses.crosscheck import CERTAIN, ENOUGH, Look, compare_people
from condprep.verification.poses.people import circles, drawn_people

PICTURE, NOBODY = np.full((512, 512, 3), 99, np.uint8), np.zeros((512, 512, 3), np.uint8)
TWO = (body(170, 260, 330), body(380, 300, 240))


def drawn(*people: np.ndarray) -> np.ndarray:
    return draw_bodies(people, 512, 512)


def looking_at(*people: np.ndarray, belief: float = 1.0) -> Look:
    """A network that answers with the nearest of these people, whatever it is asked, and how far it believes in them."""

    def look(hips: NDArray[np.float64], tops: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = np.array(people, np.float64)
        middles = found[:, [8, 11], :2].mean(1)
        return found[np.linalg.norm(hips[:, None] - middles, axis=2).argmin(1)], np.full(len(hips), belief)

    return look


def test_people_are_told_apart_by_their_limbs() -> None:
    """Of two people who overlap each gets its own joints, to the pixel where nothing covers them."""
    people = body(230, 260, 330), body(300, 280, 280)
    found = drawn_people(drawn(*people))
    assert len(found) == 2
    for one in people:
        apart = np.linalg.norm(found[..., :2] - np.floor(one[:, :2]), axis=2)
        assert np.sum(apart <= 1.5, axis=1).max() >= 14


def test_bits_of_people_and_no_drawing_are_nobody() -> None:
    """Four joints cannot be looked for; grey pictures and noise show nobody."""
    arm = TWO[0].copy()
    arm[4:] = 0
    assert drawn_people(drawn(arm)).shape == (0, 18, 3)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(drawn_people(noise)) == 0
    assert len(drawn_people(noise[..., 0])) == 0


@pytest.mark.parametrize("missing", [[], [8, 11], [8, 9, 10, 11, 12, 13], [0, 14, 15, 16, 17], [0, 1, 8, 11]])
def test_the_circle_holds_the_body_and_stands_upright(missing: list[int]) -> None:
    """Around the hips, seen or not, every joint lies in the circle, whose top is above a person who stands."""
    person = body(256, 256, 300, lean=0)[None].astype(np.float64)
    person[:, missing] = 0
    (hip,), (top,) = circles(person)
    seen = person[0, person[0, :, 2] > 0, :2]
    radius = np.linalg.norm(top - hip)
    assert np.linalg.norm(seen - hip, axis=1).max() <= radius < 400
    assert abs(top[0] - hip[0]) < 0.3 * radius
    assert top[1] < hip[1]
    assert np.linalg.norm(hip - (256, 256)) < 90


@pytest.mark.parametrize("seed", range(4))
def test_a_map_of_the_people_who_are_there_is_aligned(seed: int) -> None:
    """Joints that two annotators put a few hundredths of a body apart are the same people; 24 px more are a shift."""
    noise = np.random.default_rng(seed).normal(0, 5, (2, 18, 3)) * (1, 1, 0)
    found = [one + other for one, other in zip(TWO, noise)]
    assert compare_people(PICTURE, drawn(*TWO), NOBODY, looking_at(*found)).verdict == "aligned"
    moved = compare_people(PICTURE, shifted(drawn(*TWO), 24, 0), NOBODY, looking_at(*found))
    assert (moved.verdict, moved.shift[0]) == ("shifted", pytest.approx(24, abs=4))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m[:, ::-1], "flipped horizontally"),
        (lambda m: m[::-1], "flipped vertically"),
        (lambda m: np.rot90(m), "turned by 90 degrees anticlockwise"),
    ],
    ids=["mirror", "upside down", "quarter"],
)
def test_the_way_in_which_people_fit_is_named(change: object, name: str) -> None:
    """Where those who are drawn stand otherwise, and fit once the map is flipped or turned back, that is what it is."""
    assert callable(change)
    stored = np.ascontiguousarray(change(drawn(*TWO)))
    assert compare_people(PICTURE, stored, NOBODY, looking_at(*TWO)).orientation == name


def test_other_people_are_another_picture_where_enough_is_drawn() -> None:
    """Somebody who stands elsewhere in every way makes the map another picture's; of a few joints nobody can tell."""
    stranger, few = body(120, 330, 200, -0.4), body(120, 330, 200, -0.4)
    few[CERTAIN - 1 :] = 0
    assert compare_people(PICTURE, drawn(*TWO), NOBODY, looking_at(stranger)).verdict == "other picture"
    assert compare_people(PICTURE, drawn(few), NOBODY, looking_at(TWO[1])).verdict == "unknown"
    assert compare_people(PICTURE, PICTURE // 9, NOBODY, looking_at(stranger)).verdict == "unknown"
    assert compare_people(PICTURE, drawn(*TWO)[:200], NOBODY, looking_at(stranger)).verdict == "unknown"


def test_a_body_in_an_empty_place_is_a_guess() -> None:
    """Where the network believes in nobody, a body that fits by chance makes no map right."""
    assert compare_people(PICTURE, drawn(*TWO), NOBODY, looking_at(*TWO)).verdict == "aligned"
    assert compare_people(PICTURE, drawn(*TWO), NOBODY, looking_at(*TWO, belief=0.1)).verdict == "other picture"


def test_people_who_are_found_are_to_be_drawn() -> None:
    """Somebody who is found and of whom nothing is drawn makes a few joints another picture's; fewer still tell nothing."""
    few, fewer, somebody = TWO[1].copy(), TWO[1].copy(), body(150, 300, 260)
    few[ENOUGH:], fewer[ENOUGH - 1 :] = 0, 0
    elsewhere = looking_at(body(120, 330, 200, -0.4))
    assert compare_people(PICTURE, drawn(few), drawn(somebody), elsewhere).verdict == "other picture"
    assert compare_people(PICTURE, drawn(few), drawn(TWO[1]), elsewhere).verdict == "unknown"
    assert compare_people(PICTURE, drawn(fewer), drawn(somebody), elsewhere).verdict == "unknown"
    assert compare_people(PICTURE, NOBODY, drawn(somebody), elsewhere).verdict == "unknown"
