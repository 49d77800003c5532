"""condprep: pictures in, ControlNet training pairs out, aligned to the pixel."""

from __future__ import annotations

from importlib import import_module
from types import FunctionType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "build": "condprep.building.build",
    "finish": "condprep.building.finish_parts",
    "add_columns": "condprep.building.add_columns",
    "annotate": "condprep.annotation.annotate",
    "Session": "condprep.annotation.session",
    "as_map": "condprep.annotation.datasets_map",
    "RayAnnotator": "condprep.annotation.ray_data",
    "verify": "condprep.verification.verify",
    "curate": "condprep.curation.curate",
    "split": "condprep.curation.split",
    "merge": "condprep.curation.merge",
    "push": "condprep.dataset.push",
    "report": "condprep.reporting.report",
    "load_annotator": "condprep.annotators.registry",
    "Annotator": "condprep.annotators.protocol",
    "AnnotatorSpec": "condprep.annotators.protocol",
    "Maps": "condprep.types",
    "Weights": "condprep.weights.find",
    "CondprepError": "condprep.errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `import condprep` costs milliseconds. Functions speak of their arguments."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'condprep' has no attribute {name!r}")
    found = getattr(import_module(_PUBLIC[name]), name)
    if isinstance(found, FunctionType):
        found = import_module("condprep.runtime.wording").in_python_words(found)
        found.__module__ = "condprep"  # where pickle finds it
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
