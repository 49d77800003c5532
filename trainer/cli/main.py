"""The command line: `python -m trainer RECIPE`, and verbs for what was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from condprep.cli.options import Json
from condprep.errors import CondprepError, UsageError
from condprep.runtime.malloc import keep_freed_memory
from trainer.cli.evaluate import evaluate
from trainer.inference.pipeline import Precision, Weights

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
    from trainer.cli import console
    from trainer.recipe.toml import dump_recipe, literal, load_recipe

    saved = {"resume": resume, "push_to_hub": push_to_hub}
    settings = [*settings, *(f"save.{key}={literal(value)}" for key, value in saved.items() if value is not None)]
    chosen = load_recipe(recipe, settings)
    if print_recipe:
        print(dump_recipe(chosen), end="")
        return
    console.without_bars()
    if dry_run:
        from trainer.training.plan import make_plan

        console.show_plan(make_plan(chosen), as_json)
    else:
        from trainer.training.train import train as run

        with console.progress() as progress:
            result = run(chosen, say=console.say, progress=progress)
        console.show_result(result, as_json)
        if not result.finished:
            raise typer.Exit(1)


@app.command()
def sample(
    output: Annotated[Path, typer.Argument(help="the folder of a run: its ControlNet")],
    condition: Annotated[Path, typer.Option(help="a condition map, as `condprep annotate --like OUTPUT` makes it")],
    prompt: Annotated[str, typer.Option(help="what the picture shall show")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture: a PNG or JPEG file")] = Path("sample.png"),
    negative_prompt: Annotated[str, typer.Option(help="what it shall not show")] = "",
    steps: Annotated[int, typer.Option(min=1, help="of the UniPC sampler")] = 20,
    cfg: Annotated[float, typer.Option(min=0, help="classifier-free guidance")] = 7.5,
    seed: Annotated[int, typer.Option(help="another one gives another picture")] = 0,
    base: Annotated[str | None, typer.Option(help="another base model than that of the training")] = None,
    weights: Annotated[Weights, typer.Option(help="best: the averaged ones where there are any")] = "best",
    precision: Annotated[Precision, typer.Option(help="auto: bf16 on a GPU, fp32 on a CPU")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """Generate a picture that follows a condition map."""
    from trainer.cli import console
    from trainer.inference.pipeline import sample as run
    from trainer.inference.pipeline import save_picture

    console.without_bars()
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out or say --overwrite")
    picture = run(
        output,
        condition,
        prompt,
        negative_prompt=negative_prompt,
        steps=steps,
        cfg=cfg,
        seed=seed,
        base=base,
        weights=weights,
        precision=precision,
        device=device,
    )
    save_picture(picture, out)
    print(out)


app.command()(evaluate)


def main() -> None:
    """The `python -m trainer` command. Exit codes: 0 done, 1 not done, 2 a mistake in what was asked for."""
    _train_is_understood(sys.argv)
    keep_freed_memory()
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
    from condprep.cli import console

    console.fail(line)
