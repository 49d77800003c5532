"""The command line: its verbs, and how a mistake ends it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from condprep.cli.help import Verb, Verbs
from condprep.cli.stopping import Stopped, heed_signals
from condprep.errors import CondprepError
from condprep.runtime.malloc import keep_freed_memory
from condprep.runtime.openmp import wait_passively
from trainer.cli.app import app as page
from trainer.cli.evaluate import evaluate
from trainer.cli.export import export
from trainer.cli.fork import fork
from trainer.cli.sample import sample
from trainer.cli.train import train

SCRIPT = "condprep-train"  # of pyproject.toml

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _verbs() -> None:
    """Train a ControlNet on a dataset of condprep. `python -m trainer RECIPE` is `python -m trainer train RECIPE`."""


for verb in (train, fork, sample, page, export, evaluate):
    app.command(cls=Verb)(verb)


def main() -> None:
    """The `python -m trainer` command, or `condprep-train`. Exit codes: 0 done, 1 not done, 2 a mistake in what was asked for."""
    heed_signals()
    _train_is_understood(sys.argv)
    wait_passively()
    keep_freed_memory()
    try:
        app(prog_name=_called(sys.argv[0]))
    except CondprepError as error:
        _fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # what the operating system refuses and nothing above could explain better
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except Stopped:
        goes_on = sys.argv[1:2] in (["train"], ["fork"])
        _fail("stopped" + "; what was cached and saved stays, and the same command goes on from there" * goes_on)
        sys.exit(1)


def _called(program: str) -> str:
    """How the user calls this. As a script it works where a module of the same name would be taken for it."""
    if Path(program).stem != SCRIPT:
        return "python -m trainer"
    if Path("trainer.py").exists():
        _say(f"trainer.py in this folder is what `python -m trainer` would run here; {SCRIPT} does not")
    return SCRIPT


def _train_is_understood(arguments: list[str]) -> None:
    """`python -m trainer RECIPE` names no verb."""
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if len(arguments) > 1 and arguments[1] not in (*verbs, "-h", "--help"):
        arguments.insert(1, "train")


def _fail(line: str) -> None:
    from condprep.cli import console

    console.fail(line)


def _say(line: str) -> None:
    from condprep.cli import console

    console.say(line)
