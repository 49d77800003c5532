"""`python -m trainer RECIPE`."""

from __future__ import annotations

from typing import Annotated

import typer

from condprep.cli.options import Json
from trainer.cli.options import DryRun, Settings

RecipeName = Annotated[str, typer.Argument(help="a TOML file, or the name of a shipped one: canny, pose, depth, ...")]
Resume = Annotated[str | None, typer.Option(help="auto, never or a checkpoint's folder: save.resume for this time")]
PushToHub = Annotated[str | None, typer.Option(help="OWNER/NAME: save.push_to_hub for this time")]
CheckCache = Annotated[bool, typer.Option("--check-cache", help="cache.check for this time: all bytes of the cache")]
PrintRecipe = Annotated[bool, typer.Option("--print-recipe", help="print the recipe with every default, and stop")]


def train(
    recipe: RecipeName,
    settings: Settings = [],  # noqa: B006
    dry_run: DryRun = False,
    resume: Resume = None,
    push_to_hub: PushToHub = None,
    check_cache: CheckCache = False,
    print_recipe: PrintRecipe = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a ControlNet as a recipe says."""
    from trainer.cli import console
    from trainer.recipe.toml import dump_recipe, literal, load_recipe

    saved = {"resume": resume, "push_to_hub": push_to_hub}
    settings = [*settings, *(f"save.{key}={literal(value)}" for key, value in saved.items() if value is not None)]
    settings += ["cache.check=true"] if check_cache else []
    chosen = load_recipe(recipe, settings)
    if print_recipe:
        print(dump_recipe(chosen), end="")
        return
    if dry_run:
        console.plan(chosen, as_json)
        return
    console.load_libraries()
    from trainer.training.train import train as run

    with console.training_progress() as (progress, measured):
        result = run(chosen, say=console.say, progress=progress, measured=measured)
    console.show_result(result, as_json)
