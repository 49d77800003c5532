"""The table of annotators: on which device one is loaded."""

from __future__ import annotations

import pytest
import torch

from condprep import load_annotator
from condprep.annotators.registry import check_device
from condprep.errors import AnnotatorError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
@pytest.mark.parametrize("name", ["canny", "openpose:blaze", "depth"])
@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_missing_is_an_error(name: str, device: str) -> None:
    """CUDA that was asked for and is absent is an error with a remedy, before any weights are looked for."""
    with pytest.raises(AnnotatorError, match=rf"device '{device}' was asked for, but torch .* use device cpu"):
        load_annotator(name, device=device)


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_without_a_gpu() -> None:
    """`auto` alone may run on the CPU."""
    assert check_device("auto") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_what_is_no_device_is_an_error(device: str) -> None:
    """A name that torch does not know is quoted."""
    with pytest.raises(AnnotatorError, match=f"device '{device}'"):
        load_annotator("canny", device=device)
