"""A mirrored pose is drawn anew from its keypoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.noise import png, save_dataset

from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.keypoints import JOINTS, Pose, column_value
from condprep.dataset.pairs.base import Made
from condprep.dataset.pairs.table import TablePairs
from condprep.images.decode import decode
from trainer.data.rows import open_rows, pairs_of
from trainer.data.scan import scan
from trainer.data.tables import open_table
from trainer.data.transform import Transform, check_mirror, mirrored_pose
from trainer.errors import DataError
from trainer.recipe.recipe import Data, Text


def person(seed: int, size: int = 64) -> Pose:
    points = np.random.default_rng(seed).uniform(4, size - 4, (18, 3)).astype(np.float32)
    points[:, 2] = 0.9
    points[seed % 18] = 0  # a joint that was not found
    return Pose(points)


def pose_dataset(folder: Path, corrected: int = 0) -> Path:
    """corrected: how many rows have other keypoints than those that their maps were drawn of."""
    people = [[person(row), person(row + 50)] for row in range(6)]
    maps = [png(draw_poses(pair, 64, 64)) for pair in people]
    people[:corrected] = [[person(row + 99)] for row in range(corrected)]
    return save_dataset(folder, conditioning_image=maps, keypoints=[column_value(pair) for pair in people])


def test_keypoints_are_found_and_draw_the_stored_map(tmp_path: Path) -> None:
    """The dataset's keypoints are read with their row, and the map that they draw is the one that is stored."""
    rows = open_rows(Data(path=str(pose_dataset(tmp_path / "ds")), kind="pose"), "train", tmp_path)
    assert rows.kind == "pose"
    for number in range(len(rows)):
        row = rows[number]
        assert row.keypoints is not None
        poses = [mirrored_pose(one, 64) for one in row.keypoints["people"]]
        twice = [mirrored_pose(one, 64) for one in column_value(poses)["people"]]
        assert np.array_equal(draw_poses(twice, 64, 64), decode(row.conditions[0]).rgb)


@pytest.mark.parametrize("primary", ["blaze", "cmu"])
def test_keypoints_are_those_of_the_map(tmp_path: Path, primary: str) -> None:
    """Of two annotators of poses whose columns both have people, conditioning_image is drawn anew from those of the one that made it;
    where nobody says which that is, from neither."""
    people = {"blaze": [person(1)], "cmu": [person(2), person(3)]}
    drawn = {f"openpose_{name}": [png(draw_poses(found, 64, 64))] for name, found in people.items()}
    said = {f"keypoints_{name}": [column_value(found)] for name, found in people.items()}
    folder = save_dataset(tmp_path / "ds", 1, conditioning_image=drawn[f"openpose_{primary}"], **drawn, **said)
    pairs = pairs_of(Data(path=str(folder), kind="pose"), "train", Text())
    assert isinstance(pairs, TablePairs)
    assert open_table(pairs, tmp_path, "", "ds")[1].keypoints is None
    made = replace(pairs, made=Made(f"openpose:{primary}", {}, {}, f"openpose_{primary}"))
    assert open_table(made, tmp_path, "", "ds")[1].keypoints == f"keypoints_{primary}"


def test_corrected_keypoints_are_other_rows(tmp_path: Path) -> None:
    """The fingerprint sees keypoints: mirrored poses that are cached are never those of keypoints before a correction."""
    found = set()
    for corrected in (0, 1):
        folder = pose_dataset(tmp_path / str(corrected), corrected)
        rows = open_rows(Data(path=str(folder), kind="pose"), "train", tmp_path)
        found.add(scan(rows, "ds", tmp_path).fingerprint)
    assert len(found) == 2


def test_a_mirrored_pose_exchanges_left_and_right() -> None:
    """What was the right shoulder at x is the left one at width - 1 - x; missing joints stay missing; hands change sides."""
    body = person(3).body
    hand = np.full((21, 3), 5, np.float32)
    (value,) = column_value([Pose(body, left_hand=hand)])["people"]
    mirrored = mirrored_pose(value, 64)
    for joint, other in (("right_shoulder", "left_shoulder"), ("nose", "nose"), ("left_ear", "right_ear")):
        x, y, score = body[JOINTS.index(joint)]
        found = mirrored.body[JOINTS.index(other)]
        expected = (63 - x, y, score) if x or y else (0, 0, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert mirrored.left_hand is None
    assert mirrored.right_hand is not None
    assert mirrored.right_hand[0, 0] == 58


def test_a_mirrored_pose_keeps_the_colours_of_the_sides(tmp_path: Path) -> None:
    """The mirrored map has the very colours of the stored one where each joint now is: never a mirrored picture of it."""
    rows = open_rows(Data(path=str(pose_dataset(tmp_path / "ds")), kind="pose"), "train", tmp_path)
    row = rows[0]
    _, condition = Transform(64, "crop", ("pose",))(row, mirrored=True)
    assert row.keypoints is not None
    expected = draw_poses([mirrored_pose(one, 64) for one in row.keypoints["people"]], 64, 64)
    assert np.array_equal(condition, expected)
    assert not np.array_equal(condition, decode(row.conditions[0]).rgb[:, ::-1])


@pytest.mark.parametrize(
    ("kind", "keypoints", "said"),
    [("pose", False, "no column of them"), ("normal", True, "the wrong way"), (None, True, "name it with data.kind")],
)
def test_what_cannot_be_mirrored_is_refused(kind: str | None, keypoints: bool, said: str) -> None:
    """Poses without keypoints, normals, and maps that could be either."""
    with pytest.raises(DataError, match=rf"data\.hflip: .*{said}"):
        check_mirror(kind, keypoints)
    check_mirror("pose", True)
    check_mirror("canny", False)
