"""A run's folder and its page, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.trainer_results import make_result

from trainer.app.serve import open_page
from trainer.app.web import Page


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with canny conditions on a tiny base; what a test wants changed is another folder beside it."""
    return make_result(tmp_path_factory.mktemp("app") / "output")


@pytest.fixture(scope="session")
def page(output: Path) -> Page:
    """Its networks, for applications that tests begin anew."""
    return open_page(output, device="cpu")
