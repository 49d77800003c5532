"""Networks of controlnet_aux with random weights: made once, and let go with the tests that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import aux_models
from support.aux_models import save_checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of the networks of controlnet_aux that were asked for, by variant."""
    return partial(save_checkpoints, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    """What a module has loaded, gigabytes, does not stay in memory after it."""
    yield
    aux_models.load.cache_clear()
    aux_models.reference.cache_clear()
