"""Annotators of tests among the built-in ones."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from condprep import AnnotatorSpec
from condprep.annotators import registry

A = TypeVar("A", bound=Any)


def among_built_in(monkeypatch: pytest.MonkeyPatch, annotator: A) -> A:
    """This very annotator is what its name loads."""
    spec = AnnotatorSpec(name=annotator.name, summary="", load=lambda *_, **__: annotator)
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, spec))
    return annotator
