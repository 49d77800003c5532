from __future__ import annotations

from pathlib import Path

import pytest
from support.flow_models import FLOWS, save_flow_base

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
