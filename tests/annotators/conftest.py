"""Networks of controlnet_aux with random weights: made once, and let go with the tests that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from support import aux_models
from support.aux_models import save_checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A folder with random weights of the networks of controlnet_aux that were asked for, by variant.

    Processes that run tests side by side have one folder, and each network is made once.
    """
    alone = not hasattr(request.config, "workerinput")
    folder = tmp_path_factory.mktemp("aux") if alone else tmp_path_factory.getbasetemp().parent / "aux"
    folder.mkdir(exist_ok=True)

    def saved(variant: str) -> Path:
        with FileLock(folder / "lock"):
            return save_checkpoints(folder, variant)

    return saved


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    """What a module has loaded, gigabytes, does not stay in memory after it."""
    yield
    aux_models.load.cache_clear()
    aux_models.reference.cache_clear()
