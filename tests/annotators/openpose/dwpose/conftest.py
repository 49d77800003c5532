"""Both networks, made once, and rtmlib as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import dwpose_models


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees people here and there."""
    return dwpose_models.write_detector(tmp_path_factory.mktemp("dwpose") / "yolox_l.onnx")


@pytest.fixture(scope="session")
def landmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees 133 points, some of them."""
    return dwpose_models.write_landmarks(tmp_path_factory.mktemp("dwpose") / "dw-ll_ucoco_384.onnx")


@pytest.fixture(scope="session")
def rtmlib(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the same files on onnxruntime, with its own steps before and after."""
    return dwpose_models.rtmlib(tmp_path_factory.mktemp("rtmlib"))
