"""What several test files need: real photographs, the shared data, quiet output."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fragile import Fragile
from PIL import Image

from condprep import AnnotatorSpec
from condprep.annotators import registry

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights with ground truth; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data: no folder {folder}; set CONDPREP_SHARED")
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with 12 real photographs in several formats and sub-folders, half of them captioned."""
    from skimage import data

    folder = tmp_path / "raw"
    pictures = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    for number in range(12):
        picture = pictures[number % 4].rotate(7 * number, expand=False).convert("RGB")
        path = folder / f"group{number % 3}" / f"{number:02d}{('.jpg', '.png', '.webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if number % 2:
            path.with_suffix(".txt").write_text(f"photograph {number}")
    return folder


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Fragile:
    annotator = Fragile(limit=3)
    spec = AnnotatorSpec(name="fragile", summary="", load=lambda *_, **__: annotator)
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, spec))
    return annotator


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of the networks of controlnet_aux that were asked for, by variant."""
    from aux_models import save_checkpoints

    return partial(save_checkpoints, tmp_path_factory.mktemp("weights"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
