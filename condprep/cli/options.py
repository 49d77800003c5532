"""Options that several verbs of the command line share, and how their text becomes values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from condprep.errors import UsageError

Annotators = Annotated[
    list[str], typer.Option("--annotator", "-a", help="name or name:variant, see `condprep annotators`; repeatable")
]
Settings = Annotated[list[str], typer.Option("--set", help="an annotator's parameter, as canny.low=50; repeatable")]
WeightsFolder = Annotated[
    Path | None, typer.Option("--weights", envvar="CONDPREP_WEIGHTS", help="folder of weights under their Hub names")
]
StrictWeights = Annotated[
    bool, typer.Option("--strict-weights", help="missing weights are an error, nothing stands in")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="the result as JSON on standard output")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start afresh, deleting what is there")]


def names(given: list[str]) -> tuple[str, ...]:
    return tuple(name for text in given for name in text.split(","))


def parse_settings(settings: list[str]) -> dict[str, dict[str, Any]]:
    """["canny.low=50"] -> {"canny": {"low": "50"}}; the annotator's own model validates the values."""
    params: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        annotator, dot, parameter = key.partition(".")
        if not (equals and dot and annotator and parameter):
            raise UsageError(f"--set {setting!r} is not of the form annotator.parameter=value, as canny.low=50")
        params.setdefault(annotator, {})[parameter] = value
    return params


def parse_sample(given: str | None) -> int | Literal["all"] | None:
    """ "all" or a number of rows."""
    if given is None:
        return None
    if given == "all":
        return "all"
    if not given.isdecimal():
        raise UsageError(f"--sample {given!r} is neither a number of rows nor all")
    return int(given)


def open_weights(folder: Path | None, strict: bool) -> Any:
    from condprep.cli import console
    from condprep.weights.find import Weights

    return Weights(folder, strict=strict, say=console.say)
