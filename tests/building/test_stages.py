"""The stages of a build: who may go on while whom is kept waiting, what bounds them, and how they end. No test looks at a clock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.built_in import among_built_in
from support.datasets import tree
from support.fragile import Fragile
from support.thorough import slow_ones

from condprep import build
from condprep.annotators import transfer
from condprep.building import device_stage, shard
from condprep.building.device_stage import DeviceStage
from condprep.building.picture import Draft, Found, Input, Item, PictureStage
from condprep.dataset.shards import ShardWriter
from condprep.errors import AnnotatorError
from condprep.images.geometry import Placement
from condprep.types import Entry, Seen

SMALL: dict[str, Any] = {
    "resolution": 128,
    "shard_rows": 4,
    "workers": 2,
}  # twelve pictures: three shards of a batch each


class Watched(Fragile):
    """An annotator in two steps, which notes who calls them."""

    name = "watched"

    def __init__(self) -> None:
        super().__init__(limit=100)
        self.threads: dict[str, set[str]] = {"see": set(), "draw": set()}

    def see(self, rgb: torch.Tensor, keys: Sequence[str]) -> Seen:
        self.threads["see"].add(threading.current_thread().name)
        maps = self(rgb, list(keys))
        return Seen([maps.maps], maps.columns["brightness"])

    def draw(self, arrays: Sequence[np.ndarray], found: float) -> tuple[np.ndarray, dict[str, Any]]:
        self.threads["draw"].add(threading.current_thread().name)
        return arrays[0][0], {"brightness": found}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The annotator `watched`, among the built-in ones."""
    return among_built_in(monkeypatch, Watched())


def test_the_device_goes_on_while_the_writer_is_stopped(
    raw: Path, tmp_path: Path, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row is written no earlier than the device has seen every batch: it never waits for the writer."""
    fragile.limit, all_seen = 100, threading.Event()
    add, call = ShardWriter.add, Fragile.__call__

    def late(self: ShardWriter, outcome: Any) -> None:
        assert all_seen.wait(600)
        add(self, outcome)

    def noted(self: Fragile, rgb: torch.Tensor, keys: list[str]) -> Any:
        maps = call(self, rgb, keys)
        if len(self.batches) == 3:
            all_seen.set()
        return maps

    monkeypatch.setattr(ShardWriter, "add", late)
    monkeypatch.setattr(Fragile, "__call__", noted)
    assert build(raw, tmp_path / "ds", "fragile", **SMALL).rows == {"train": 12}
    assert fragile.batches == [4, 4, 4]


def test_batches_lie_ready_before_the_device_asks(
    raw: Path, tmp_path: Path, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the device has its first batch, the following ones are brought together and on their way to it."""
    fragile.limit, filled, ready = 100, [], threading.Event()
    call = Fragile.__call__

    class Noted(transfer.Upload):
        def __init__(self, pictures: Sequence[np.ndarray], device: str) -> None:
            super().__init__(pictures, device)
            filled.append(len(pictures))
            if len(filled) == 3:
                ready.set()

    def patient(self: Fragile, rgb: torch.Tensor, keys: list[str]) -> Any:
        assert ready.wait(600)
        return call(self, rgb, keys)

    monkeypatch.setattr(device_stage, "Upload", Noted)
    monkeypatch.setattr(Fragile, "__call__", patient)
    assert build(raw, tmp_path / "ds", "fragile", **SMALL).rows == {"train": 12}


def test_the_device_goes_on_while_maps_are_drawn(
    raw: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first map is drawn no earlier than the last batch was seen: by a worker, never by the device's own thread."""
    all_seen = threading.Event()
    see, draw = Watched.see, Watched.draw

    def noted(self: Watched, rgb: torch.Tensor, keys: Sequence[str]) -> Seen:
        seen = see(self, rgb, keys)
        if len(self.batches) == 3:
            all_seen.set()
        return seen

    def late(self: Watched, arrays: Sequence[np.ndarray], found: float) -> Any:
        assert all_seen.wait(600)
        return draw(self, arrays, found)

    monkeypatch.setattr(Watched, "see", noted)
    monkeypatch.setattr(Watched, "draw", late)
    assert build(raw, tmp_path / "ds", "watched", **SMALL).rows == {"train": 12}
    assert watched.threads["see"] == {"condprep-device"}
    assert all(name.startswith("condprep-worker") for name in watched.threads["draw"])


def test_two_steps_make_the_rows_of_one(raw: Path, tmp_path: Path, watched: Watched, fragile: Fragile) -> None:
    """What is seen and then drawn is what a call returns."""
    build(raw, tmp_path / "two", "watched", **SMALL)
    two = [path.read_bytes() for path in sorted((tmp_path / "two" / "train").glob("*.arrow"))]
    build(raw, tmp_path / "one", "fragile", **SMALL)
    one = [path.read_bytes() for path in sorted((tmp_path / "one" / "train").glob("*.arrow"))]
    assert one == two


def test_a_picture_that_cannot_be_drawn_is_a_reject_alone(
    raw: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of its batch become rows."""
    draw, broken = Watched.draw, set[float]()

    def breaks_on_one(self: Watched, arrays: Sequence[np.ndarray], found: float) -> Any:
        if not broken or found in broken:
            broken.add(found)
            raise ValueError("cannot be drawn")
        return draw(self, arrays, found)

    monkeypatch.setattr(Watched, "draw", breaks_on_one)
    result = build(raw, tmp_path / "ds", "watched", **SMALL)
    assert (result.rows, sum(result.rejects.values())) == ({"train": 11}, 1)


@pytest.mark.parametrize(
    ("step", "wrong", "says"),
    [
        (
            "draw",
            lambda *_: (np.zeros((5, 5), np.uint8), {}),
            r"'watched' drew a map \(5, 5\) uint8 for a picture \(128, 128\)",
        ),
        (
            "see",
            lambda self, rgb, keys: Seen([rgb[:1]], [0.0] * len(keys)),
            r"'watched' saw \[1, 4\] things in 4 pictures",
        ),
    ],
)
def test_an_annotator_that_breaks_its_promise_is_named(
    raw: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch, step: str, wrong: Any, says: str
) -> None:
    """Either of its two steps, and what would be right; the build stops, for no picture is to blame."""
    monkeypatch.setattr(Watched, step, wrong)
    with pytest.raises(AnnotatorError, match=says):
        build(raw, tmp_path / "ds", "watched", **SMALL)


@pytest.mark.usefixtures("fragile")
@pytest.mark.parametrize("annotators", ["canny", ("fragile", "canny")])
def test_with_room_for_nothing_a_build_makes_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotators: Any
) -> None:
    """Pictures that are larger than all the memory go through one by one, of many shapes, and none waits for another for ever."""
    options = SMALL | {"fit": "bucket", "resolution": 256, "max_upscale": 4, "workers": 3}
    build(raw, tmp_path / "roomy", annotators, **options)
    monkeypatch.setattr(shard, "BUFFER", 0)
    monkeypatch.setattr(shard, "usable_memory", lambda: 0)
    monkeypatch.setattr(DeviceStage, "pending", 3_000_000 if "fragile" in annotators else 0)
    under_way, most, lock = 0, 0, threading.Lock()
    prepare = PictureStage.prepare

    def counted(self: PictureStage, found: Found) -> Item:
        nonlocal under_way, most
        with lock:
            under_way += found.cost
            most = max(most, under_way - found.cost)
        item = prepare(self, found)
        with lock:
            under_way -= found.cost
        return item

    monkeypatch.setattr(PictureStage, "prepare", counted)
    build(raw, tmp_path / "tight", annotators, **options)
    assert tree(tmp_path / "tight" / "train") == tree(tmp_path / "roomy" / "train")
    if "fragile" not in annotators:
        assert most == 0  # nothing else was prepared beside it


def drafts(shapes: str) -> list[Item]:
    """Pictures of 1,000 bytes; the letter is the shape."""
    sides = {shape: 1 + "ab".index(shape) for shape in "ab"}
    return [
        (
            Input(number, 0, Entry(str(number), "")),
            Draft(
                "", np.zeros((side, 1, 3), np.uint8), Placement((0, 0, 1, 1), (1, 1), (1, 1)), {}, True, True, held=1000
            ),
        )
        for number, side in enumerate(sides[shape] for shape in shapes)
    ]


def test_a_rare_shape_leaves_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of one leaves as soon as the pictures that came since hold more than may wait, long before its shard ends."""
    monkeypatch.setattr(DeviceStage, "pending", 10_000)
    taken: list[int] = []

    def items() -> Any:
        for item in drafts("b" + "a" * 990):
            taken.append(item[0].number)
            yield item

    stage = DeviceStage({"fragile": Fragile(limit=8)}, 8)
    first = next(stage.batches(items()))
    assert [input.number for input, _ in first] == [0]
    assert len(taken) == 11


STAGES = [
    (PictureStage, "prepare"),
    (DeviceStage, "see"),
    (ShardWriter, "add"),
    (PictureStage, "read"),
    (DeviceStage, "fill"),
    (DeviceStage, "wait"),
    (PictureStage, "finish"),
]


@pytest.mark.usefixtures("fragile")
@pytest.mark.parametrize("stage", STAGES[:3] + slow_ones(STAGES[3:]), ids=[method for _, method in STAGES])
def test_what_fails_in_any_stage_ends_the_build(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str]
) -> None:
    """Its error comes out, no thread of ours goes on, and the same call goes on from the shards that are there."""
    build(raw, tmp_path / "whole", "fragile", **SMALL)
    step, calls = getattr(*stage), 0

    def breaks(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("a bug")
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(*stage, breaks)
        with pytest.raises(RuntimeError, match="a bug"):
            build(raw, tmp_path / "ds", "fragile", **SMALL)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("condprep-")]
    build(raw, tmp_path / "ds", "fragile", **SMALL)
    assert tree(tmp_path / "ds" / "train") == tree(tmp_path / "whole" / "train")


@pytest.mark.parametrize(("on_cpu", "threads"), [(True, 3), (False, 1)])
def test_torch_has_one_thread_a_call_beside_a_device(
    raw: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch, on_cpu: bool, threads: int
) -> None:
    """While networks are on another device; those on the CPU have all that torch has. The host program's number is put back."""
    monkeypatch.setattr(DeviceStage, "on_cpu", on_cpu)
    found, see, before = set[int](), Watched.see, torch.get_num_threads()

    def noted(self: Watched, rgb: torch.Tensor, keys: Sequence[str]) -> Seen:
        found.add(torch.get_num_threads())
        return see(self, rgb, keys)

    monkeypatch.setattr(Watched, "see", noted)
    torch.set_num_threads(3)
    try:
        build(raw, tmp_path / "ds", "watched", **SMALL)
        assert (found, torch.get_num_threads()) == ({threads}, 3)
    finally:
        torch.set_num_threads(before)
