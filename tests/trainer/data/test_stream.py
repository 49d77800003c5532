"""Rows that are streamed are those of the dataset, batch for batch, and only the files of a window are opened."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.noise import png, save_shards
from support.thorough import slow_ones
from support.trainer_models import save_base
from support.trainer_runs import silent

from trainer.data.loader import Loader
from trainer.data.open import open_split
from trainer.data.order import Order, Position, streamed
from trainer.data.split import Split
from trainer.data.stream import StreamedRows, StreamedSizes
from trainer.errors import DataError, RecipeError
from trainer.evaluation.examples import read_examples
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model, Recipe
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Batch, ProcessGroup

COUNTS = [5, 3, 6, 4, 2, 5, 3, 6, 4, 2, 5, 3, 6, 4, 2, 5, 3, 6, 4, 2]  # rows of 20 files: 80
SIZES = ((128, 128), (64, 256), (128, 128))
BATCH = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(Model(base=str(save_base(tmp_path_factory.mktemp("base") / "sdxl", "sdxl"))))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shards(tmp_path_factory.mktemp("shards") / "ds", COUNTS, SIZES)


def recipe_of(path: Path | str, kept: Path, *, streaming: bool = True, cached: bool = False, **cache: Any) -> Recipe:
    return parse_recipe(
        {
            "data": {
                "path": str(path),
                "resolution": 128,
                "num_workers": 0,
                "streaming": streaming,
                "window": 12,
                "kind": "canny",
                "hflip": 0.5,
            },
            "cache": {"dir": str(kept), "latents": cached, "text": cached, **cache},
            "train": {"batch": BATCH, "micro_batch": 1, "seed": 3},
        }
    )


def opened(recipe: Recipe, base: Base) -> Split:
    """The rows that are trained on, ready to give batches."""
    split = open_split(recipe, "train", training=True).with_caches(base)
    split.fill(ONE_PROCESS, silent)
    return split


def number_of(key: str) -> int:
    return int(key.removeprefix("row "))


def batches(
    split: Split, updates: int, processes: int = 1, state: dict[str, Any] | None = None
) -> tuple[list[Batch], dict[str, Any]]:
    """Those of so many updates, of every process in turn, and the state that all of them are in then."""
    loaders = [Loader(split, BATCH // processes, ProcessGroup(rank, processes)) for rank in range(processes)]
    for loader in loaders:
        loader.load_state_dict(state or loader.state_dict())
    found = [batch for together in islice(zip(*loaders), updates) for batch in together]
    states = [loader.state_dict() for loader in loaders]
    assert states == states[:1] * processes
    return found, states[0]


def drawn(found: list[Batch]) -> list[tuple[str, int]]:
    return [pair for batch in found for pair in zip(batch.keys, batch.epochs)]


@pytest.mark.slow
def test_two_passes_are_those_without_streaming(dataset: Path, base: Base, tmp_path: Path) -> None:
    """20 files, 1 to 3 processes, a resume in the middle: one order, and every row as often as without streaming, twice."""
    split = opened(recipe_of(dataset, tmp_path), base)
    plain = opened(recipe_of(dataset, tmp_path, streaming=False), base)
    orders = []
    for processes in (1, 2, 3):
        first, state = batches(split, 10, processes)
        rest, end = batches(split, 20, processes, state)
        found, waiting = drawn(first + rest), Position.read(end["stream"]).waiting
        seen = Counter(key for key, epoch in found if epoch < 2)
        seen.update(f"row {row.number}" for row in waiting if row.epoch < 2)
        assert seen == {plain.rows.key(number): 2 for number in range(len(plain.rows))}
        orders.append(found)
    assert orders[0] == orders[1] == orders[2] == drawn(batches(split, 30)[0])


def test_a_row_is_the_one_that_is_not_streamed(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Pixels, map, caption, mirror, sizes and draws of a row in an epoch are the same: its order alone is another."""
    stream, plain = (opened(recipe_of(dataset, tmp_path, streaming=streaming), base) for streaming in (True, False))
    found: dict[tuple[str, int], Batch] = {}
    for batch in batches(plain, 20)[0]:
        found |= {(key, epoch): batch.take([n]) for n, (key, epoch) in enumerate(zip(batch.keys, batch.epochs))}
    seen = 0
    for batch in batches(stream, 6)[0]:
        for n, place in enumerate(zip(batch.keys, batch.epochs)):
            one, same = batch.take([n]), found.get(place)
            if same:
                seen += 1
                assert one.captions == same.captions
                for name in ("pixels", "conditions", "time_ids"):
                    assert getattr(one, name).equal(getattr(same, name))
                assert one.draws.noise.equal(same.draws.noise)  # type: ignore[union-attr]
    assert seen > 20


def test_rows_are_looked_at_one_by_one(dataset: Path, tmp_path: Path) -> None:
    """What evaluates a run reads rows evenly spread over all files: those that it would read without streaming."""
    stream, plain = (
        open_split(recipe_of(dataset, tmp_path, streaming=streaming), "train", training=False)
        for streaming in (True, False)
    )
    for one, other in zip(read_examples(stream, 5), read_examples(plain, 5), strict=True):
        assert (one.key, one.prompt) == (other.key, other.prompt)
        assert np.array_equal(one.original, other.original)
        assert np.array_equal(one.condition, other.condition)


def parquet(dataset: Path, folder: Path) -> Path:
    """The same in Parquet files."""
    (folder / "data").mkdir(parents=True)
    for number, path in enumerate(sorted(dataset.glob("train/*.arrow"))):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_stream(source).read_all()
            pq.write_table(table, folder / "data" / f"train-{number:05d}-of-{len(COUNTS):05d}.parquet")
    return folder


@pytest.mark.parametrize("where", ["parquet", "url", *slow_ones(["parquet at a url"])])
def test_rows_come_from_any_storage(
    where: str, dataset: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are fetched, or copied to be read by number, give the rows of those that are mapped, in the same order."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    path: Path | str = parquet(dataset, tmp_path / "parquet") if "parquet" in where else dataset
    if "url" in where:
        for file in (one for one in Path(path).rglob("*") if one.is_file()):
            fsspec.filesystem("memory").pipe_file(f"/bucket/ds/{file.relative_to(path)}", file.read_bytes())
        path = "memory://bucket/ds"
    here, there = (opened(recipe_of(one, tmp_path / "kept"), base) for one in (dataset, path))
    for one, other in zip(batches(here, 5)[0], batches(there, 5)[0], strict=True):
        assert one.keys == other.keys
        assert one.pixels is not None
        assert one.pixels.equal(other.pixels)
        assert one.conditions.equal(other.conditions)


def test_files_are_opened_when_a_window_needs_them(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Before the first update one file is looked at; later as many are open as two windows cover, and a few."""
    split = opened(recipe_of(dataset, tmp_path), base)
    assert isinstance(split.rows, StreamedRows)
    scans = [*tmp_path.glob("scan-*.json")]
    assert len(scans) == 1
    assert len(split.buckets) == COUNTS[0]
    batches(split, sum(COUNTS) // BATCH + 2)
    assert len(split.rows.shards.tables) <= split.rows.shards.tables.most < len(COUNTS)
    assert len([*tmp_path.glob("scan-*.json")]) == len(COUNTS)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Choosing and reading the rows of 80 files takes, at its peak, no more than the pictures of two windows, one thirteenth of them."""
    (folder := tmp_path / "ds" / "train").mkdir(parents=True)
    for number, path in enumerate(sorted(dataset.glob("train/*.arrow")) * 4):
        (folder / f"data-{number:05d}-of-{4 * len(COUNTS):05d}.arrow").hardlink_to(path)
    size = sum(path.stat().st_size for path in folder.iterdir()) / (4 * sum(COUNTS))
    splits = (opened(recipe_of(folder.parent, tmp_path / f"kept{number}"), base) for number in range(3))
    assert min(map(peak_of_reading, splits)) < 2 * 12 * size  # threads that other tests have left take memory, too


def peak_of_reading(split: Split) -> int:
    """Bytes, while the rows of an epoch are chosen and read."""
    assert isinstance(split.rows, StreamedRows)
    assert isinstance(split.sizes, StreamedSizes)
    chosen = streamed(Order(split.rows.shards.counts, 12, 3), BATCH, Position(), split.bucket, split.sizes.begin)
    tracemalloc.start()
    try:
        for update, _ in islice(chosen, len(split.rows) // BATCH):
            assert all(split.rows[row.number].image for row in update)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def copy_of(dataset: Path, tmp_path: Path) -> Path:
    (tmp_path / "ds" / "train").mkdir(parents=True)
    for path in dataset.glob("train/*.arrow"):
        (tmp_path / "ds" / "train" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "ds"


@pytest.mark.parametrize("harm", ["gone", *slow_ones(["changed"])])
def test_a_file_that_goes_in_the_middle_is_named(harm: str, dataset: Path, base: Base, tmp_path: Path) -> None:
    """Updates before it are made; then the run says which file it is, and that it can be put back: then the rest follows."""
    path = copy_of(dataset, tmp_path)
    split = opened(recipe_of(path, tmp_path), base)
    expected = drawn(batches(split, 12)[0])
    split = opened(recipe_of(path, tmp_path), base)
    order = Order(COUNTS, 12, 3)
    late = [
        one.shard for window in [*order.windows(0)][4:5] for one in window if one.rows.start == order.starts[one.shard]
    ][-1]
    file = sorted(path.glob("train/*.arrow"))[late]
    content, status = file.read_bytes(), file.stat()
    file.unlink()
    if harm == "changed":
        file.write_bytes(content)
    loader, found = Loader(split, BATCH), list[Batch]()
    with pytest.raises(DataError, match=f"{file.name} {'is gone' if harm == 'gone' else 'has changed'}.*put it back"):
        found.extend(iter(loader))
    assert 0 < len(found) < 12
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = opened(recipe_of(path, tmp_path), base)
    assert again.fingerprint == split.fingerprint
    state = loader.state_dict()
    assert state["updates"] == len(found)
    assert drawn(found) + drawn(batches(again, 12 - len(found), state=state)[0]) == expected


def test_an_object_that_goes_in_the_middle_is_named(
    dataset: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a URL, too: by its URL."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    for file in dataset.glob("train/*.arrow"):
        store.pipe_file(f"/bucket/ds/train/{file.name}", file.read_bytes())
    split = opened(recipe_of("memory://bucket/ds", tmp_path / "kept"), base)
    name = f"train/data-00011-of-{len(COUNTS):05d}.arrow"
    store.rm_file(f"/bucket/ds/{name}")
    with pytest.raises(DataError, match=f"memory://bucket/ds/{name} is gone; put it back"):
        batches(split, 30)


def test_a_row_that_is_not_as_it_must_be_is_named(dataset: Path, base: Base, tmp_path: Path) -> None:
    """As it would be before a run that is not streamed: in the words of verify, before the updates of its window."""
    path = copy_of(dataset, tmp_path)
    file = sorted(path.glob("train/*.arrow"))[7]
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    rows = table.to_pylist()
    rows[2]["conditioning_image"]["bytes"] = png(np.zeros((32, 32), np.uint8))
    with pa.ipc.new_stream(str(file), table.schema) as sink:
        sink.write_batch(pa.RecordBatch.from_pylist(rows, table.schema))
    with pytest.raises(DataError, match=f"{rows[2]['key']}: .*32 x 32.*condprep verify"):
        batches(opened(recipe_of(path, tmp_path), base), 40)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"validation": 0.1}, r"data\.validation = 0\.1 takes all of them: name a split"),
        ({"max_rows": 5}, r"data\.max_rows = 5 takes all of them: say 0, and train\.steps"),
    ],
)
def test_what_is_chosen_among_all_rows_is_refused(data: dict[str, Any], said: str) -> None:
    """Named, with what to say instead."""
    with pytest.raises(RecipeError, match=f"data.streaming = true looks at no row in advance, and {said}"):
        parse_recipe({"data": {"streaming": True, **data}})


def test_a_dataset_that_is_no_files_of_rows_is_refused(tmp_path: Path) -> None:
    """A folder of pictures and maps has no files to open one by one."""
    for name in ("image", "conditioning_image"):
        (tmp_path / "ds" / name).mkdir(parents=True)
        (tmp_path / "ds" / name / "a.png").write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    (tmp_path / "ds" / "image" / "a.txt").write_text("a caption")
    with pytest.raises(DataError, match=r"data\.streaming = true reads files of rows"):
        open_split(recipe_of(tmp_path / "ds", tmp_path), "train", training=True)
