"""`python -m trainer sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condprep.errors import UsageError
from trainer.cli.options import (
    BaseName,
    Device,
    Kind,
    Output,
    SamplerName,
    WhichCheckpoint,
    WhichPrecision,
    WhichWeights,
)

ConditionFile = Annotated[Path, typer.Option(help="a condition map, as `condprep annotate --like OUTPUT` makes it")]
Prompt = Annotated[str, typer.Option(help="what the picture shall show")]
PictureFile = Annotated[Path, typer.Option("--out", "-o", help="the picture: a PNG or JPEG file")]
NegativePrompt = Annotated[str, typer.Option(help="what it shall not show")]
Steps = Annotated[int | None, typer.Option(min=1, help="of the sampler (default: eval.sampler_steps of the recipe)")]
Cfg = Annotated[float | None, typer.Option(min=0, help="classifier-free guidance (default: eval.cfg of the recipe)")]
Seed = Annotated[int, typer.Option(help="another one gives another picture")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace OUT")]


def sample(
    output: Output,
    condition: ConditionFile,
    prompt: Prompt,
    kind: Kind = None,
    out: PictureFile = Path("sample.png"),
    negative_prompt: NegativePrompt = "",
    steps: Steps = None,
    cfg: Cfg = None,
    seed: Seed = 0,
    base: BaseName = None,
    checkpoint: WhichCheckpoint = None,
    weights: WhichWeights = "best",
    precision: WhichPrecision = "auto",
    sampler: SamplerName = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Generate a picture that follows a condition map."""
    from trainer.cli import console
    from trainer.inference.pipeline import check_picture_name, save_picture
    from trainer.inference.pipeline import sample as run

    check_picture_name(out)
    console.without_bars()
    if out.exists() and condition.exists() and out.samefile(condition):
        raise UsageError(f"{out} is the condition itself; choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out or say --overwrite")
    with console.warnings_as_lines():
        picture = run(
            output,
            condition,
            prompt,
            negative_prompt=negative_prompt,
            steps=steps,
            cfg=cfg,
            seed=seed,
            kind=kind,
            base=base,
            checkpoint=checkpoint,
            weights=weights,
            precision=precision,
            sampler=sampler,
            device=device,
            say=console.say,
        )
    save_picture(picture, out)
    print(out)
