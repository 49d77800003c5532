"""What the device or an annotator did wrong stops at once; what makes the pixels is part of the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.faulty import SMALL
from support.fragile import Fragile

from condprep import Maps, build
from condprep.annotators.failures import judge
from condprep.building.machine import describe_machine
from condprep.errors import DatasetError, PassingFault, ProgramFault, Rejected

NO = ValueError("no")

# the device's and the program's faults


def flawed(call: Callable[[Fragile, torch.Tensor], None]) -> type[Fragile]:
    """An annotator that is Fragile after something else happened."""

    def annotate(self: Fragile, rgb: torch.Tensor, keys: list[str]) -> Maps:
        call(self, rgb)
        return Fragile.__call__(self, rgb, keys)

    return type("Flawed", (Fragile,), {"__call__": annotate})


@pytest.mark.parametrize(
    "message", ["CUDA error: an illegal memory access was encountered", "CUBLAS_STATUS_EXECUTION_FAILED"]
)
def test_a_device_that_fails_stops_at_once_and_keeps_nothing(
    tmp_path: Path, source: Path, fragile: Fragile, message: str
) -> None:
    """No halving, no second attempt, no reject: the cause, and the shards that were finished before."""

    def fails(self: Fragile, rgb: torch.Tensor) -> None:
        self.batches.append(len(rgb))
        if len(self.batches) > 1:
            raise RuntimeError(message)

    fragile.limit, fragile.__class__ = 99, flawed(fails)
    with pytest.raises(ProgramFault, match=message):
        build(source, tmp_path / "ds", "fragile", **SMALL)
    assert not list((tmp_path / "ds").rglob("*.partial"))
    assert not (tmp_path / "ds" / "train").exists()
    fragile.__class__ = Fragile
    assert build(source, tmp_path / "ds", "fragile", **SMALL).rejects == {}


def test_one_passing_lack_of_memory_on_the_device_costs_nothing(tmp_path: Path, source: Path, fragile: Fragile) -> None:
    """Out of memory at every size down to one picture, once each: all are rows."""
    met: set[int] = set()

    def fails(self: Fragile, rgb: torch.Tensor) -> None:
        if len(rgb) not in met:
            met.add(len(rgb))
            raise torch.OutOfMemoryError("CUDA out of memory")

    fragile.limit, fragile.__class__ = 99, flawed(fails)
    result = build(source, tmp_path / "ds", "fragile", **SMALL)
    assert (result.rows, result.rejects, 1 in met) == ({"train": 12}, {}, True)


def test_an_annotator_that_fails_on_everything_stops_at_once(tmp_path: Path, source: Path, fragile: Fragile) -> None:
    """A bug is no picture's fault, be it the first one's."""

    def fails(self: Fragile, rgb: torch.Tensor) -> None:
        raise AttributeError("'NoneType' object has no attribute 'shape'")

    fragile.__class__ = flawed(fails)
    with pytest.raises(ProgramFault, match=r"fragile fails on a picture, and on another one that should do: Attribute"):
        build(source, tmp_path / "ds", "fragile", **SMALL)
    assert not list((tmp_path / "ds").rglob("rejects.jsonl"))


def test_an_annotator_that_stops_working_is_no_row_of_rejects(tmp_path: Path, source: Path, fragile: Fragile) -> None:
    """It worked on the first batch, and then on nothing: what it worked on tells that it is not the pictures."""

    def fails(self: Fragile, rgb: torch.Tensor) -> None:
        if self.batches:
            raise ValueError("the service is gone")

    fragile.limit, fragile.__class__ = 99, flawed(fails)
    with pytest.raises(ProgramFault, match="the service is gone"):
        build(source, tmp_path / "ds", "fragile", **SMALL)


@pytest.mark.parametrize("shard_rows", [1, 5, 20])
def test_one_picture_on_which_it_fails_is_a_reject(
    tmp_path: Path, source: Path, fragile: Fragile, shard_rows: int
) -> None:
    """While it works on others, wherever that picture is, first of all or alone in its shard."""
    Image.new("RGB", (80, 80)).save(source / "-first.png")
    Image.new("RGB", (80, 80), (0, 0, 1)).save(source / "05-black.png")
    result = build(source, tmp_path / "ds", "fragile", resolution=64, shard_rows=shard_rows)
    assert (result.rows, result.rejects) == ({"train": 12}, {"annotator-failed": 2})


def test_what_an_exception_means() -> None:
    """Once and not again: nothing. Again, and on the control: the program's. Again, and not on the control: the picture's."""

    def fails() -> str:
        raise ValueError("no")

    def decide(again: Callable[[], str], control: Callable[[], object], error: BaseException = NO) -> str:
        return judge("one", error, again, control, lambda _: None)

    assert decide(lambda: "map", fails) == "map"
    with pytest.raises(ProgramFault):
        decide(fails, fails)
    with pytest.raises(Rejected, match="one failed: ValueError: no"):
        decide(fails, lambda: "map")
    with pytest.raises(ProgramFault, match=r"wanted to end the program \(SystemExit 0\)"):
        decide(lambda: "map", fails, SystemExit(0))
    with pytest.raises(PassingFault):
        decide(lambda: (_ for _ in ()).throw(MemoryError()), fails, MemoryError())


# what makes the pixels is part of the plan


def test_a_build_goes_on_where_it_was_begun(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, fragile: Fragile
) -> None:
    """With another device or version the rest would be other pixels: that is refused, and what differs is said."""
    from condprep.building import load_annotators

    fragile.limit = 0
    with pytest.raises(ProgramFault):
        build(source, tmp_path / "ds", "fragile", **SMALL)
    fragile.limit = 99
    here = describe_machine([fragile])
    assert {"device", "torch", "pillow", "opencv"} <= here.keys()
    there = here | {"device": "NVIDIA H100 80GB HBM3", "convolutions": "TF32", "pillow": "1.0"}
    monkeypatch.setattr(load_annotators, "describe_machine", lambda _: there)
    with pytest.raises(DatasetError) as raised:
        build(source, tmp_path / "ds", "fragile", **SMALL)
    for name in ("machine.device", "machine.convolutions: None there, 'TF32' now", "machine.pillow"):
        assert name in str(raised.value)
    monkeypatch.undo()


def test_filters_do_not_ask_for_a_device() -> None:
    """A dataset of edges goes on beside any GPU: torch is not even loaded for it."""
    from condprep import load_annotator

    assert not {"device", "torch"} & describe_machine([load_annotator("canny")]).keys()
