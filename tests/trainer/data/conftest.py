"""A dataset that the tests of reading it share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.trainer_models import build_dataset


@pytest.fixture(scope="session")
def built(tmp_path_factory: Any) -> Path:
    """A dataset of condprep."""
    return build_dataset(tmp_path_factory.mktemp("data") / "ds")
