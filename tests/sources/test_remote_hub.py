"""Datasets on the Hub, read where they lie: by ranges, at one revision, without a copy in the cache of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import hub as hubs
from support.datasets import tree
from support.hub import Hub, Repo

import condprep
from condprep.errors import SourceError, StorageFault
from condprep.sources.open import open_source

NAME = "user/pictures"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, which notes what it is asked, and a cache of the test's own."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "objects"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with hubs.in_use(tmp_path / "cache") as found:
        yield found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pictures, some with captions."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    for number in range(5):
        path = folder / ("train", "train/more")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (70, 66, 3), np.uint8)).save(path)
        if number % 2:
            path.with_suffix(".txt").write_text(f"picture {number}")
    return folder


@pytest.fixture(scope="module")
def rows(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in Parquet, two rows a row group."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("rows")
    cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted(pictures.rglob("*.png"))]
    table = Dataset.from_dict({"image": cells, "text": list("abcde")})
    (folder / "data").mkdir()
    table.to_parquet(folder / "data/train-00000-of-00001.parquet", batch_size=2)
    return folder


def push(hub: Hub, folder: Path) -> None:
    """The folder's files become the repository."""
    hub.repos[NAME] = Repo(files={name: data for name, data in tree(folder).items() if not name.endswith("/")})


def built(source: object, out: Path) -> dict[str, bytes]:
    """The rows that come of a source, file by file."""
    condprep.build(str(source), out, "canny", resolution=64, workers=2)
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.arrow"))}


def test_pictures_of_a_repository(hub: Hub, pictures: Path, tmp_path: Path) -> None:
    """Files of a repository are read as those of a folder: the same rows."""
    push(hub, pictures)
    assert built(f"hf://datasets/{NAME}", tmp_path / "remote") == built(pictures, tmp_path / "local")
    assert built(f"hf://datasets/{NAME}@main/train/more", tmp_path / "part") == built(
        pictures / "train/more", tmp_path / "own"
    )


@pytest.mark.parametrize("name", [NAME, f"hf://datasets/{NAME}"])
def test_rows_of_a_repository_are_streamed(hub: Hub, rows: Path, tmp_path: Path, name: str) -> None:
    """Parquet on the Hub, by its id or its URL, gives the rows of the file, and `datasets` copies nothing."""
    push(hub, rows)
    asked: list[str] = []
    hub.fault = lambda method, path: asked.append(f"{method} {path}")
    remote = built(name, tmp_path / "remote")
    read = [one for one in asked if "/resolve/" in one]
    assert len(read) == 1 + 3  # the footer, and three row groups
    assert not (tmp_path / "datasets").exists()
    hub.fault = lambda method, path: None
    assert remote == built(rows, tmp_path / "local")


def test_what_is_pushed_meanwhile_is_seen_by_the_next_command(hub: Hub, pictures: Path) -> None:
    """A source is the revision that it was when it was opened."""
    push(hub, pictures)
    before = hub.repos[NAME].head
    source = open_source(f"hf://datasets/{NAME}")
    asked: list[str] = []
    hub.fault = lambda method, path: asked.append(path)
    source.read(next(iter(source.entries())))
    assert asked
    assert all(before in path for path in asked)


def test_faults_of_the_hub_cost_nothing(hub: Hub, pictures: Path, tmp_path: Path) -> None:
    """Every third request fails: the same rows."""
    push(hub, pictures)
    asked: list[str] = []

    def fail(method: str, path: str) -> int | None:
        asked.append(path)
        return (500, 503, hubs.RESET)[len(asked) % 9 // 3] if len(asked) % 3 == 0 else None

    hub.fault = fail
    remote = built(f"hf://datasets/{NAME}", tmp_path / "remote")
    hub.fault = lambda method, path: None
    assert remote == built(pictures, tmp_path / "local")


def test_a_repository_that_is_not_there_or_not_ours(hub: Hub, pictures: Path) -> None:
    """One sentence: it is not there; or who may read it, and how to say so."""
    with pytest.raises(SourceError, match="there is no repository of"):
        open_source("hf://datasets/user/nothing")
    push(hub, pictures)
    hub.fault = lambda method, path: 403
    with pytest.raises(StorageFault, match="hf auth login"):
        open_source(f"hf://datasets/{NAME}")
