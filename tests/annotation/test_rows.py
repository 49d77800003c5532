"""A session's rows: columns of data frames, samples of a stream, batches of tensors; what is bad costs its own row alone."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import webdataset as wds
from PIL import Image
from support.counting import install

from condprep import Session
from condprep.errors import UsageError


@pytest.fixture
def files(raw: Path) -> list[bytes]:
    """A photograph, something else, and a photograph."""
    first, second = (raw / "group1" / "01.png").read_bytes(), (raw / "group1" / "04.png").read_bytes()
    return [first, b"no picture", second]


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def edges(data: bytes) -> np.ndarray:
    return np.asarray(cv2.Canny(opened(data), 100, 200))


def test_a_column_of_pandas_and_of_polars(files: list[bytes]) -> None:
    """Columns that line up with the frame's rows: maps as PNG, and of a bad picture nothing but the reason."""
    session = Session("canny:random")
    frame = pd.DataFrame({"image": files, "id": [7, 8, 9]}, index=["a", "b", "c"])
    pandas = frame.assign(**session.table(frame["image"]))
    other = pl.DataFrame({"image": files, "id": [7, 8, 9]})
    polars = other.hstack(pl.DataFrame(session.table(other["image"])))
    assert list(pandas.columns) == polars.columns == ["image", "id", "canny", "canny_thresholds", "reject"]
    for found in (pandas["canny"].tolist(), polars["canny"].to_list()):
        assert [data is None for data in found] == [False, True, False]
        assert opened(found[0]).shape == opened(files[0]).shape[:2]
        assert opened(found[0]).dtype == np.uint8
    assert pandas["reject"].tolist() == polars["reject"].to_list()
    assert pandas["reject"]["b"].startswith("decode: not a picture of a known format")
    assert pandas["reject"]["a"] == ""


def test_pictures_that_were_changed_come_with_their_maps(files: list[bytes]) -> None:
    """With a fit, the picture that the annotators saw is beside the maps, of their size; kept ones are not repeated."""
    table = Session("canny", fit="crop", resolution=64).table(files)
    assert list(table) == ["image", "canny", "reject"]
    assert opened(table["image"][0]).shape == (64, 64, 3)
    np.testing.assert_array_equal(edges(table["image"][0]), opened(table["canny"][0]))
    assert table["image"][1] is None


@pytest.mark.parametrize("kind", ["bytes", "stored", "pil", "array", "file"])
def test_a_sample_gets_its_map_in_the_form_of_its_picture(files: list[bytes], tmp_path: Path, kind: str) -> None:
    """Bytes give PNG, PIL gives PIL, arrays arrays; what else is in the sample stays."""
    (tmp_path / "a.png").write_bytes(files[0])
    picture, read = {
        "bytes": (files[0], opened),
        "stored": ({"bytes": files[0], "path": None}, lambda made: opened(made["bytes"])),
        "pil": (Image.open(io.BytesIO(files[0])), np.asarray),
        "array": (opened(files[0]), lambda made: made),
        "file": (tmp_path / "a.png", np.asarray),
    }[kind]  # type: ignore[index]
    sample = Session("canny", image="photo").sample({"photo": picture, "text": "words"})
    assert sample.keys() == {"photo", "text", "canny", "reject"}
    assert sample["photo"] is picture
    np.testing.assert_array_equal(read(sample["canny"]), edges(files[0]))


def test_a_stream_is_annotated_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many samples leave as come, in order; networks see batches of the annotator's pixels, and few more are read."""
    counting = install(monkeypatch)
    session, read = Session("counting", workers=1), []

    def samples() -> Iterator[dict[str, Any]]:
        for number in range(40):
            read.append(number)
            yield {"image": np.full((512, 512, 3), number, np.uint8), "number": number}

    stream = session.samples(samples())
    first = next(stream)
    assert len(read) <= 4 + 8 + 4  # a batch, what is decoded ahead, what is drawn ahead
    assert [int(one["counting"][0, 0]) for one in (first, *stream)] == list(range(40))
    network: Any = session.annotators["counting"]
    assert (network.batches, counting.loads) == (10, ["cpu"])


@pytest.mark.parametrize("way", ["map", "compose"])
def test_webdataset_reads_maps_and_writes_them(files: list[bytes], tmp_path: Path, way: str) -> None:
    """Through `.map` and `.compose` a sample gets files named as WebDataset names them, which its writer writes."""
    with wds.TarWriter(str(tmp_path / "a.tar")) as tar:
        for number, data in enumerate(files):
            tar.write({"__key__": f"{number}", "png": data, "txt": f"picture {number}"})
    session = Session("canny:random", image="jpg;png", fit="crop", resolution=64)
    stream = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    samples = list(stream.map(session.sample) if way == "map" else stream.compose(session.samples))
    assert [sample["reject.txt"] == "" for sample in samples] == [True, False, True]
    assert samples[1]["canny.png"] is samples[1]["png"] is None
    with wds.TarWriter(str(tmp_path / "b.tar")) as tar:
        tar.write(samples[0])
    (written,) = wds.WebDataset(str(tmp_path / "b.tar"), shardshuffle=False)
    np.testing.assert_array_equal(opened(written["png"]).shape, (64, 64, 3))
    assert opened(written["canny.png"]).shape == (64, 64)
    low, high = json.loads(written["canny_thresholds.json"])
    np.testing.assert_array_equal(opened(written["canny.png"]), cv2.Canny(opened(written["png"]), low, high))


def test_a_changed_jpeg_stays_one(raw: Path) -> None:
    """What a stream names .jpg is a JPEG also after the picture was cropped."""
    session = Session("canny", image="jpg", fit="crop", resolution=64)
    sample = session.sample({"__key__": "a", "jpg": (raw / "group0" / "00.jpg").read_bytes()})
    with Image.open(io.BytesIO(sample["jpg"])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 64))


def test_a_batch_of_tensors(files: list[bytes]) -> None:
    """collate stacks pictures and maps, leaves out bad rows with all their values, and lists them with the reason."""
    session = Session(["canny", "canny:random"], fit="crop", resolution=64)
    dataset = [{"image": data, "text": f"picture {n}", "n": n} for n, data in enumerate(files)]
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=3, collate_fn=session.collate)  # type: ignore[arg-type]
    assert (tuple(batch["image"].shape), batch["image"].dtype) == ((2, 3, 64, 64), torch.uint8)
    assert batch["canny"].shape == batch["canny_random"].shape == (2, 1, 64, 64)
    assert (batch["text"], batch["n"].tolist(), len(batch["canny_thresholds_random"])) == (
        ["picture 0", "picture 2"],
        [0, 2],
        2,
    )
    assert [one.stage for one in batch["reject"]] == ["decode"]
    picture = np.ascontiguousarray(batch["image"][1].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(batch["canny"][1, 0].numpy(), cv2.Canny(picture, 100, 200))
    nothing = session.collate([dataset[1]])
    assert (len(nothing["image"]), len(nothing["canny"]), len(nothing["reject"])) == (0, 0, 1)


def test_what_cannot_be_a_batch_or_a_row_is_told() -> None:
    """Pictures of two sizes, and rows without the picture's key: the error names what is there and what to say."""
    small, large = (np.zeros((size, size, 3), np.uint8) for size in (8, 16))
    with pytest.raises(UsageError, match=r"8 x 8 and of 16 x 16 px are no batch: give the session fit='crop'"):
        Session("canny").collate([{"image": small}, {"image": large}])
    for row, there in (({"jpg": small}, "keys 'jpg'"), (small, "a ndarray")):
        with pytest.raises(UsageError, match=rf"{there} and has no picture 'image' or 'png': say image=KEY"):
            Session("canny", image="image;png").sample(row)  # type: ignore[arg-type]


def test_ray_s_actor_takes_its_batches(files: list[bytes]) -> None:
    """Its contract without ray: numpy columns in, numpy columns out, as many; bytes give PNG, arrays arrays."""
    from condprep import RayAnnotator

    imported = "ray" in sys.modules
    actor = RayAnnotator("canny", fit="crop", resolution=64)
    column = np.empty(3, object)
    column[:] = files
    batch = actor({"image": column, "id": np.arange(3)})
    assert {name: (type(values), len(values)) for name, values in batch.items()} == dict.fromkeys(
        ["image", "id", "canny", "reject"], (np.ndarray, 3)
    )
    np.testing.assert_array_equal(edges(batch["image"][2]), opened(batch["canny"][2]))
    assert batch["canny"][1] is None
    arrays = actor({"image": np.zeros((2, 80, 80, 3), np.uint8)})
    assert (arrays["image"].shape, arrays["canny"].shape) == ((2, 64, 64, 3), (2, 64, 64))
    assert ("ray" in sys.modules) == imported
