"""Training reads a dataset at a URL as it reads the folder; what goes wrong there is said in the recipe's words."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from support.s3_server import BUCKET, S3Server

from condprep.errors import StorageFault
from trainer.data.rows import PLAIN, open_rows, refuse_changed, splits
from trainer.errors import DataError
from trainer.recipe.recipe import Data

MEMORY = "memory://bucket/ds"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own, and nothing in the store."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))


def in_memory(folder: Path) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            fsspec.filesystem("memory").pipe_file(f"/bucket/ds/{path.relative_to(folder)}", path.read_bytes())
    return MEMORY


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_rows_at_a_url_are_those_of_the_folder(built: Path, tmp_path: Path, s3: S3Server, where: str) -> None:
    """Splits, kind, columns and every row, whose files are fetched once: while one of a hundred requests fails nothing is lost."""
    url = in_memory(built) if where == "memory" else s3.upload(built, "for-training")
    s3.fail(rate=0.01, seed=3, kinds=("500", "503", "reset", "short"))
    assert splits(Data(path=url)) == splits(Data(path=str(built)))
    for split in ("train", "validation"):
        here, there = (open_rows(Data(path=path), split, tmp_path / "copies") for path in (str(built), url))
        assert (there.kinds, there.conditions, there.names, len(there)) == (
            here.kinds,
            here.conditions,
            here.names,
            len(here),
        )
        assert [there[n] for n in range(len(there))] == [here[n] for n in range(len(here))]
    if where == "s3":
        read = [
            one["what"]
            for one in s3.log()
            if ".arrow" in one["what"] and one["what"].startswith("GET") and not one["fault"]
        ]
        assert len(read) == len(set(read)) == len(list(built.rglob("*.arrow")))
    assert not (tmp_path / "copies").exists()


def test_a_dataset_that_changes_at_its_url_is_noticed(built: Path, tmp_path: Path) -> None:
    """What was made of the objects that were listed must not be taken for that of others."""
    data = Data(path=in_memory(built))
    rows = open_rows(data, "train", tmp_path / "copies")
    refuse_changed(rows, data, PLAIN)
    files = fsspec.filesystem("memory")
    name = min(files.glob("/bucket/ds/train/*.arrow"))
    files.pipe_file(name, files.cat_file(name))
    with pytest.raises(DataError, match=f"{MEMORY} has changed since it was opened"):
        refuse_changed(rows, data, PLAIN)


@pytest.mark.parametrize(
    ("url", "says"), [(f"s3://{BUCKET}/nothing", "holds no dataset"), ("s3://no-bucket/ds", "not there")]
)
def test_a_url_without_a_dataset_is_told(url: str, says: str, tmp_path: Path, s3: S3Server) -> None:
    """With the recipe's key and the URL, and no folder is made for it."""
    with pytest.raises(DataError, match=rf"data\.path = '{url}': .*{says}"):
        open_rows(Data(path=url), "train", tmp_path / "copies")


def test_credentials_that_are_refused_are_no_mistake_of_the_dataset(built: Path, tmp_path: Path, s3: S3Server) -> None:
    """The remedy is said, and that the same command goes on."""
    url = s3.upload(built, "refused")
    s3.fail(refuse="ExpiredToken")
    with pytest.raises(StorageFault, match=r"may not be read .*AWS") as raised:
        open_rows(Data(path=url), "train", tmp_path / "copies")
    assert raised.value.exit_code == 1
