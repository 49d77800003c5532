"""What others get wrong costs what is theirs: a folder that nobody may read, a package that is broken, a second process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.built_in import among_built_in
from support.fragile import Fragile
from support.pictures import smooth

import condprep
from condprep.annotators import registry
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import AnnotatorError, BuildFailed
from condprep.runtime.files import commit
from condprep.sources.open import open_source


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called locked may not be listed, not even by root."""
    for name in ("listdir", "scandir"):
        real = getattr(os, name)

        def guarded(path: Any = ".", real: Any = real) -> Any:
            if str(path).rstrip("/").endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, name, guarded)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth(64, 64)).save(path)


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("source", ["raw", "raw/cats"])
def test_a_folder_that_nobody_may_read_costs_itself_alone(tmp_path: Path, source: str) -> None:
    """Beside pictures or beside folders of pictures it is a problem of its own, and everything else is an input."""
    picture(tmp_path / "raw" / "cats" / "1.png")
    (tmp_path / source / "locked").mkdir(parents=True)
    entries = list(open_source(tmp_path / source).entries())
    assert [entry.problem is None for entry in entries] == [True, False]


@pytest.mark.usefixtures("closed")
def test_pairs_beside_such_a_folder_are_found(tmp_path: Path) -> None:
    """Two folders of pictures and one that nobody may read: the pairs are those of the two."""
    picture(tmp_path / "image" / "1.png")
    picture(tmp_path / "condition" / "1.png")
    (tmp_path / "locked").mkdir()
    assert [pair.problem for pair in open_pairs(tmp_path)] == [None]


@pytest.mark.parametrize("code", ["raise RuntimeError(1)", "raise SystemExit(0)", "import nothing_there", "SPEC = 3"])
def test_a_broken_package_breaks_its_own_annotator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A plug-in that cannot be imported: canny works, and whoever asks for the plug-in is told what is wrong with it."""
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("broken", "broken_plugin:SPEC", registry.ENTRY_POINTS)

    def points(group: str, name: str = "broken") -> list[EntryPoint]:
        return [point] if name == "broken" else []

    monkeypatch.setattr(registry, "entry_points", points)
    assert "broken" not in registry.specs()
    assert registry.load_annotator("canny").name == "canny"
    with pytest.raises(AnnotatorError, match="the entry point 'broken_plugin:SPEC'"):
        registry.load_annotator("broken")


class Leaving(Fragile):
    """Ends the program when it is called."""

    def __call__(self, rgb: Any, keys: Sequence[str]) -> Any:
        raise SystemExit(0)


def test_an_annotator_cannot_end_a_build_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit(0) out of the code of others is a failure of the build, and nothing of the shard is kept."""
    picture(tmp_path / "raw" / "1.png")
    among_built_in(monkeypatch, Leaving(limit=3))
    with pytest.raises(BuildFailed, match="wanted to end the program"):
        condprep.build(tmp_path / "raw", tmp_path / "ds", "fragile", resolution=64)
    assert not (tmp_path / "ds" / "train").exists()


def test_several_may_verify_at_once(tmp_path: Path) -> None:
    """Three at one dataset: each ends with its result, the scores that stay are whole, and nothing else is left."""
    for number in range(4):
        picture(tmp_path / "raw" / f"{number}.png")
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(condprep.verify, tmp_path / "ds", checks=["structure"]) for _ in range(3)]
    assert [one.result().rows for one in running] == [4, 4, 4]
    assert pq.read_table(tmp_path / "ds" / ".condprep" / "verify.parquet").num_rows == 4
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_that_others_are_writing_is_not_theirs_to_lose(tmp_path: Path) -> None:
    """A commit inside of a commit of the same file: both are complete, the later one stays."""

    def outer(partial: Path) -> None:
        commit(tmp_path / "a", lambda other: other.write_text("inner"))
        assert (tmp_path / "a").read_text() == "inner"
        np.testing.assert_equal(partial.read_bytes(), b"")
        partial.write_text("outer")

    commit(tmp_path / "a", outer)
    assert (tmp_path / "a").read_text() == "outer"
    assert not list(tmp_path.glob("*.partial"))
