"""What tests of building need beside the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.built_in import among_built_in
from support.datasets import tree
from support.faulty import FIVE_SHARDS, pictures
from support.fragile import Fragile
from support.pictures import smooth

from condprep import build


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Fragile:
    """The annotator `fragile`, among the built-in ones."""
    return among_built_in(monkeypatch, Fragile(limit=3))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    return pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine small pictures, one of which is broken: five shards."""
    folder = tmp_path_factory.mktemp("few") / "few"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(smooth(64, 64, seed)).save(folder / f"{seed}.png")
    (folder / "8.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of an ordinary build of them in a folder, as bytes."""
    out = tmp_path_factory.mktemp("whole") / "ds"
    build(few, out, "canny", **FIVE_SHARDS)
    return tree(out)
