"""`python -m trainer RECIPE`."""

from __future__ import annotations

from typing import Annotated

import typer

from condprep.cli.options import Json

RecipeName = Annotated[str, typer.Argument(help="a TOML file, or the name of a shipped one: canny, pose, depth, ...")]
Settings = Annotated[list[str], typer.Option("--set", help="a key, as train.lr=2e-6; repeatable")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, print the plan, and train nothing")]
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
    console.without_bars()
    if dry_run:
        from trainer.training.plan import plan_training

        console.show_plan(plan_training(chosen), as_json)
    else:
        from trainer.training.train import train as run

        with console.progress() as progress:
            result = run(chosen, say=console.say, progress=progress)
        console.show_result(result, as_json)
        if not result.finished:
            raise typer.Exit(1)
