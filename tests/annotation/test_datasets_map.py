"""condprep.as_map: maps of a Dataset whose fingerprint is stable, whose bad pictures cost a row each, one GPU a rank."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from PIL import Image
from support.counting import install

from condprep import as_map
from condprep.annotation import session


@pytest.fixture
def rows(raw: Path, tmp_path: Path) -> datasets.Dataset:
    """Six photographs as `datasets` keeps them, as bytes and as files, of which the third cannot be decoded."""
    paths = sorted(raw.rglob("*.png"))[:4]
    stored = [{"bytes": paths[0].read_bytes(), "path": None}, {"bytes": None, "path": str(paths[1])}]
    pictures = [
        *stored,
        {"bytes": b"no picture", "path": None},
        *stored,
        {"bytes": None, "path": str(tmp_path / "gone.png")},
    ]
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int32")})
    return datasets.Dataset.from_dict({"image": pictures, "n": [*range(6)]}, features=features)


def test_maps_are_columns_and_bad_pictures_stop_nothing(rows: datasets.Dataset) -> None:
    """Every row is there, with its map as a picture; a bad one has None and its reason, and `image` stays as it was."""
    mapped = rows.map(as_map("canny"), batched=True, with_rank=True, batch_size=4)
    assert mapped.features["canny"] == datasets.Image()
    assert mapped.select_columns("n")["n"][:] == [*range(6)]
    reasons = mapped["reject"][:]
    assert [reason == "" for reason in reasons] == [True, True, False, True, True, False]
    assert reasons[2].startswith("decode: not a picture")
    assert reasons[5].startswith("read: ")
    assert mapped.select_columns("canny")[2]["canny"] is None
    for number in (0, 1, 4):
        row = mapped[number]
        np.testing.assert_array_equal(np.asarray(row["canny"]), cv2.Canny(np.asarray(row["image"]), 100, 200))


def test_maps_are_held_compressed_until_somebody_looks() -> None:
    """A batch's maps are PNGs, which `datasets` stores as they are; a picture that was changed is saved as it is then."""
    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (made,) = as_map("canny")({"image": [rgb]})["canny"]
    stored = datasets.Image().encode_example(made)
    assert made._im is None  # not decoded for it
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored["bytes"]))), cv2.Canny(rgb, 100, 200))
    made.putpixel((0, 0), 77)
    changed = datasets.Image().encode_example(pickle.loads(pickle.dumps(made)))
    assert Image.open(io.BytesIO(changed["bytes"])).getpixel((0, 0)) == 77


def test_pictures_that_are_changed_are_replaced(rows: datasets.Dataset) -> None:
    """With a fit, `image` is the picture that was annotated, so that pairs line up; of a bad one there is none."""
    mapped = rows.map(as_map("canny", fit="crop", resolution=64), batched=True)
    for number in (0, 1, 3):
        row = mapped[number]
        assert row["image"].size == row["canny"].size == (64, 64)
        np.testing.assert_array_equal(np.asarray(row["canny"]), cv2.Canny(np.asarray(row["image"]), 100, 200))
    assert mapped[2]["image"] is None


def test_an_iterable_dataset_takes_the_same_function(rows: datasets.Dataset) -> None:
    """Streamed rows get the same maps; undecoded, a bad picture costs its row alone, too."""
    stream = rows.to_iterable_dataset().decode(False).map(as_map("canny"), batched=True, batch_size=4)
    mapped = rows.map(as_map("canny"), batched=True)
    streamed = list(stream)
    assert len(streamed) == 6
    for row, other in zip(streamed, mapped.select_columns(["canny", "reject"])):
        assert row["reject"] == other["reject"]
        assert (row["canny"] is None) == (other["canny"] is None)
        if row["canny"]:
            np.testing.assert_array_equal(np.asarray(row["canny"]), np.asarray(other["canny"]))


def test_features_hold_where_a_whole_batch_has_nothing(rows: datasets.Dataset) -> None:
    """With `features`, a first batch of bad pictures alone does not fix the type of the others' maps."""
    function, kept = as_map("canny:random"), set(session._sessions._kept)
    mapped = rows.select([2, 5, 0, 1]).map(
        function, batched=True, batch_size=2, features=function.features(rows.features)
    )
    assert mapped.features["canny"] == datasets.Image()
    assert set(session._sessions._kept) == kept  # the networks that told their columns are not held
    assert [value is None for value in mapped["canny_thresholds"][:]] == [True, True, False, False]


TWICE = """
import sys, datasets, condprep, condprep.annotation.session
rows = datasets.load_from_disk(sys.argv[1])
calls = []
stream = condprep.annotation.session.Session.stream
condprep.annotation.session.Session.stream = lambda *given: calls.append(1) or stream(*given)
rows.map(condprep.as_map("canny", params={"canny": {"low": int(sys.argv[2])}}), batched=True, with_rank=True)
print(len(calls))
"""


@pytest.mark.slow
def test_the_second_process_reads_the_cache(rows: datasets.Dataset, tmp_path: Path) -> None:
    """The same call in another process annotates nothing again; another parameter does."""
    rows.select(range(5)).save_to_disk(tmp_path / "rows")  # it would open the file that is gone

    def calls(low: int) -> int:
        run = [sys.executable, "-c", TWICE, tmp_path / "rows", str(low)]
        environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
        ran = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        return int(ran.stdout)

    assert [calls(50), calls(50), calls(60)] == [1, 0, 1]


def test_the_fingerprint_is_of_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two functions that do the same hash alike, loaded or not; each parameter, size and device counts."""
    install(monkeypatch)
    used = as_map("counting")
    used({"image": [np.zeros((8, 8, 3), np.uint8)]})
    assert Hasher.hash(used) == Hasher.hash(as_map("counting"))
    others = [
        as_map("counting", fit="crop"), as_map("counting", fit="crop", resolution=64), as_map("counting", device="cpu"),
        as_map("canny"), as_map("canny", params={"canny": {"low": 5}}), as_map("canny", image="photo"),
    ]  # fmt: skip
    assert len({Hasher.hash(one) for one in [used, *others]}) == 7


def test_each_rank_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """rank % GPUs, each loaded once in a process; a device that was named, a filter, or no rank stay as they are."""
    install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    function = as_map("counting")
    sessions = [function.session_of(rank) for rank in (0, 1, 2, 3, None)]
    assert [one.description.device for one in sessions] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "auto"]
    assert sessions[0] is sessions[2]
    assert as_map("counting", device="cuda:1").session_of(0).description.device == "cuda:1"
    assert as_map("canny").session_of(1).description.device == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert function.session_of(1) is function.session


@pytest.mark.slow
def test_several_processes_share_the_work(rows: datasets.Dataset) -> None:
    """With num_proc the rows are those of one process."""
    one = rows.map(as_map("canny"), batched=True, with_rank=True)
    two = rows.map(as_map("canny"), batched=True, with_rank=True, num_proc=2)
    assert one["reject"][:] == two["reject"][:]
    assert [np.asarray(one[n]["canny"]).tobytes() for n in (0, 4)] == [
        np.asarray(two[n]["canny"]).tobytes() for n in (0, 4)
    ]
