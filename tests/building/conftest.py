"""What tests of building need beside the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.faulty import pictures
from support.fragile import Fragile

from condprep import AnnotatorSpec
from condprep.annotators import registry


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Fragile:
    """The annotator `fragile`, among the built-in ones."""
    annotator = Fragile(limit=3)
    spec = AnnotatorSpec(name="fragile", summary="", load=lambda *_, **__: annotator)
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, spec))
    return annotator


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    return pictures(tmp_path / "pictures")
