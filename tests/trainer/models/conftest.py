"""Tiny bases of every family, made and loaded once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.flow_models import FLOWS, save_flow_base
from support.trainer_models import FAMILIES, save_base

from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model


@pytest.fixture(scope="session")
def flow_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base of each family that flows."""
    root = tmp_path_factory.mktemp("flows")
    return {family: save_flow_base(root / family, family) for family in FLOWS}


@pytest.fixture(scope="session")
def flow_bases(flow_folders: dict[str, Path]) -> dict[str, Base]:
    """They, loaded. Not to be changed."""
    return {family: load_base(Model(base=str(folder))) for family, folder in flow_folders.items()}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base of each family with a UNet. Not to be changed."""
    root = tmp_path_factory.mktemp("bases")
    return {family: save_base(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    """They, loaded. Not to be changed."""
    return {family: load_base(Model(base=str(folder))) for family, folder in folders.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A base's folder that a test may damage."""
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / family))
