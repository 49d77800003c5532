"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from condprep.cli import terminal


@pytest.fixture
def photo(raw: Path) -> Path:
    return raw / "group1" / "01.png"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as long as they are: what a narrow terminal folds is not what is tested."""
    monkeypatch.setenv("COLUMNS", "300")
    for one in (terminal.out, terminal.err):
        monkeypatch.setattr(one, "_width", 300)
