"""The command line: `python -m trainer RECIPE`, and verbs for what was trained."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from condprep.cli_options import Json
from condprep.errors import CondprepError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _verbs() -> None:
    """Train a ControlNet on a dataset of condprep. `python -m trainer RECIPE` is `python -m trainer train RECIPE`."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a TOML file, or the name of a shipped one: canny, pose, depth, ...")],
    settings: Annotated[list[str], typer.Option("--set", help="a key, as train.lr=2e-6; repeatable")] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, print the plan, and train nothing")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="auto, never or a checkpoint's folder: save.resume for this time")
    ] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="OWNER/NAME: save.push_to_hub for this time")] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="print the recipe with every default, and stop")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a ControlNet as a recipe says."""
    from trainer import console
    from trainer.toml import dump_recipe, literal, load_recipe

    saved = {"resume": resume, "push_to_hub": push_to_hub}
    settings = [*settings, *(f"save.{key}={literal(value)}" for key, value in saved.items() if value is not None)]
    chosen = load_recipe(recipe, settings)
    if print_recipe:
        print(dump_recipe(chosen), end="")
        return
    console.without_bars()
    if dry_run:
        from trainer.plan import make_plan

        console.show_plan(make_plan(chosen), as_json)
    else:
        from trainer.loop import train as run

        with console.progress() as progress:
            result = run(chosen, say=console.say, progress=progress)
        console.show_result(result, as_json)


def main() -> None:
    """The `python -m trainer` command. Exit codes: 0 done, 1 not done, 2 a mistake in what was asked for."""
    _train_is_understood(sys.argv)
    try:
        app(prog_name="python -m trainer")
    except CondprepError as error:
        _fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # what the operating system refuses and nothing above could explain better
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)


def _train_is_understood(arguments: list[str]) -> None:
    """`python -m trainer RECIPE` names no verb."""
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if len(arguments) > 1 and arguments[1] not in (*verbs, "--help"):
        arguments.insert(1, "train")


def _fail(line: str) -> None:
    from condprep import console

    console.fail(line)
