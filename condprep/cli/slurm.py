"""`condprep build --engine slurm`: the command that was given, as the jobs of an array."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from typer import Context

from condprep.cli import console
from condprep.errors import UsageError

OF_SLURM = ("engine", "parts", "submit", "slurm_option")
OF_FINISH = ("max_rejects",)
NOT_IN_PARTS = ("into", "overwrite", "retry_rejects", "part", "as_json", "push_to_hub", "break_lock")


def check_slurm(context: Context) -> bool:
    """Whether the build is to be one of SLURM. Raises UsageError for options that go with another engine, or are missing."""
    given = _given(context)
    if context.params["engine"] != "slurm":
        if odd := next((name for name in OF_SLURM[1:] if name in given), None):
            raise UsageError(f"{_option(context, odd)} has a meaning with --engine slurm alone; leave it out")
        return False
    if odd := next((name for name in NOT_IN_PARTS if name in given), None):
        raise UsageError(
            f"{_option(context, odd)} has no meaning with --engine slurm, which builds in parts; leave it out"
        )
    if context.params["out"] is None or context.params["parts"] is None:
        raise UsageError("--engine slurm needs --out, and --parts N: how many tasks the array has")
    return True


def on_slurm(context: Context) -> None:
    """Print the script, or submit it."""
    from condprep.engines.slurm import array_script, submit

    given = context.params
    ours = [name for name in _given(context) if name not in (*OF_SLURM, *OF_FINISH)]
    script = array_script(
        [*_condprep(context), "build", _argument(given["source"]), *_words(context, ours)],
        [*_condprep(context), "finish", _argument(given["out"]), *_words(context, OF_FINISH)],
        given["parts"],
        given["slurm_option"],
        Path.cwd(),
    )
    if not given["submit"]:
        print(script, end="")
        return
    print(submit(script))
    console.say(
        f"once the jobs have ended, the dataset is {given['out']}; the same command again goes on where they stopped"
    )


def _argument(path: object) -> str:
    """A path that is never taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _condprep(context: Context) -> Sequence[str]:
    """This very command, wherever a job looks for it, with what was said before the verb."""
    said = context.parent.params if context.parent else {}
    cache = [f"--{name.replace('_', '-')}={said[name]}" for name in ("cache_dir", "cache_limit") if said.get(name)]
    if Path(sys.argv[0]).stem == "condprep" and (found := shutil.which(sys.argv[0])):
        return [str(Path(found).absolute()), *cache]
    return [sys.executable, "-m", "condprep", *cache]


def _given(context: Context) -> list[str]:
    """The parameters that stand in the command itself; those of the environment are the jobs', too."""
    names = [parameter.name or "" for parameter in context.command.params]
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _words(context: Context, names: Sequence[str]) -> Iterator[str]:
    """Those of these that were given, as they are written."""
    for name in names:
        value = context.params[name]
        if name == "source" or name not in _given(context):
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            yield _option(context, name) + ("" if one is True else f"={one}")


def _option(context: Context, name: str) -> str:
    return next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
