"""Options that verbs share, each declared once, and how their text becomes values. A verb's own are in its own file."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Context, Option

from condprep.cli import console
from condprep.errors import UsageError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

# where --help shows an option; what most users need stays in the panel "Options"
of_maps = partial(Option, rich_help_panel="Maps")
of_source = partial(Option, rich_help_panel="Source")
of_size = partial(Option, rich_help_panel="Size")
of_output = partial(Option, rich_help_panel="Output")
of_machine = partial(Option, rich_help_panel="Machine")

Annotators = Annotated[
    list[str], Option("--annotator", "-a", help="name or name:variant, see `condprep annotators`; repeatable")
]
Overwrite = Annotated[bool, Option("--overwrite", help="start afresh, deleting what is there")]
Json = Annotated[bool, Option("--json", help="the result as JSON on standard output")]

Settings = Annotated[list[str], of_maps("--set", help="an annotator's parameter, as canny.low=50; repeatable")]

ImageColumn = Annotated[str | None, of_source(help="column of the pictures; of pairs in folders the folder")]
ConditionColumn = Annotated[str | None, of_source(help="column, or folder, of the condition maps")]
CaptionColumn = Annotated[str | None, of_source(help="column of the captions")]
Config = Annotated[str | None, of_source(help="config of a dataset that has several")]
FollowLinks = Annotated[
    list[Path],
    of_source(
        "--follow-links", metavar="FOLDER", help="links, and paths in rows, may lead into this folder, too; repeatable"
    ),
]

Scores = Annotated[
    Path | None,
    of_output(help="Parquet file of all scores (default: .condprep/verify.parquet, or beside)"),
]

BreakLock = Annotated[bool, of_output("--break-lock", help="take over a dataset at a URL from a process that is gone")]

# before the verb, since they are of every one
CacheDir = Annotated[
    str,
    Option("--cache-dir", help="folder for what of URLs must lie on this machine, and for weights (CONDPREP_CACHE)"),
]
CacheLimit = Annotated[
    str,
    Option("--cache-limit", help="how large what it holds of URLs may become: 20GB (CONDPREP_CACHE_LIMIT; 50GB)"),
]

Private = Annotated[bool, Option("--private", help="create it on the Hub so that only its owner sees it")]

Workers = Annotated[int | None, of_machine(min=0, help="threads (default: the cores)")]
Device = Annotated[str, of_machine(help="auto, cpu, cuda, cuda:1, ...")]
Devices = Annotated[
    str | None, of_machine(help="a process for each of several: all, or as cuda:0,cuda:1 (instead of --device)")
]
Engine = Annotated[
    Literal["local", "ray", "slurm"],
    of_machine(help="who runs the shard jobs: this machine, a Ray cluster, or the tasks of a SLURM array"),
]
Address = Annotated[
    str | None, of_machine(help="of the Ray cluster: auto, HOST:PORT (default: as Ray finds one, or here)")
]
Actors = Annotated[int | None, of_machine(help="how many build in the Ray cluster (default: as many as fit into it)")]
WeightsFolder = Annotated[
    Path | None, of_machine("--weights", envvar="CONDPREP_WEIGHTS", help="folder of weights under their Hub names")
]
StrictWeights = Annotated[bool, of_machine("--strict-weights", help="missing weights are an error, nothing stands in")]
TrustAnnotators = Annotated[
    list[str],
    of_machine(
        "--trust-annotator",
        help="an annotator that the dataset may name beside condprep's own: a model of others, a plug-in; repeatable",
    ),
]


def names(given: list[str]) -> tuple[str, ...]:
    """["canny, hed", "depth"] -> ("canny", "hed", "depth")."""
    return tuple(name.strip() for text in given for name in text.split(","))


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


def set_cache(folder: str, limit: str) -> None:
    """For this process and those that it starts. Raises UsageError for a limit that is none."""
    if folder:
        os.environ["CONDPREP_CACHE"] = os.path.abspath(folder)
    if limit:
        number, unit = (limit[:-2], limit[-2:].upper()) if limit[-2:].upper() in UNITS else (limit, "")
        if not (number.isascii() and number.isdecimal()):
            raise UsageError(f"--cache-limit {limit!r} is no size; give bytes, or as 500MB, 20GB, 2TB")
        os.environ["CONDPREP_CACHE_LIMIT"] = str(int(number) * UNITS.get(unit, 1))


def open_weights(folder: Path | None, strict: bool = False) -> Any:
    """The weights of a run, whose notices go to standard error."""
    from condprep.weights.find import Weights

    return Weights(folder, strict=strict, say=console.say)


def refuse_others(context: Context, mode: str, heeded: set[str]) -> None:
    """Raises UsageError for an option that was given and that the mode would not heed."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        if name not in heeded and given is not None and given.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} has no meaning with {mode}; leave it out")
