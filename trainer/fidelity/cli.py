"""`python -m trainer evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condprep.cli_options import Json, open_weights
from trainer.pipeline import Precision, Weights


def evaluate(
    output: Annotated[Path, typer.Argument(help="the folder of a run: its ControlNet")],
    dataset: Annotated[str | None, typer.Option(help="another dataset than that of the training")] = None,
    split: Annotated[
        str | None, typer.Option(help="its held-out rows (default: data.validation of the recipe)")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=2, help="at most that many held-out rows, and as many that were trained on")
    ] = 100,
    seed: Annotated[int, typer.Option(help="of the starting noise and the intervals")] = 0,
    sampler_steps: Annotated[
        int | None, typer.Option(min=1, help="of UniPC (default: eval.sampler_steps of the recipe)")
    ] = None,
    cfg: Annotated[
        float | None, typer.Option(min=0, help="classifier-free guidance (default: eval.cfg of the recipe)")
    ] = None,
    pictures_per_prompt: Annotated[int | None, typer.Option(min=1, help="pictures of each row (default: 1)")] = None,
    against: Annotated[
        str | None, typer.Option(help="a second ControlNet, by folder or Hub name, tried on the same base and noise")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="settings by name: controlnet-plus-plus")] = None,
    annotator: Annotated[
        str | None, typer.Option(help="looks at the pictures, instead of the one that made the dataset's maps")
    ] = None,
    annotator_weights: Annotated[
        Path | None,
        typer.Option(envvar="CONDPREP_WEIGHTS", help="folder of the annotator's weights under their Hub names"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures that are generated at once")] = 8,
    base: Annotated[str | None, typer.Option(help="another base model than that of the training")] = None,
    weights: Annotated[Weights, typer.Option(help="best: the averaged ones where there are any")] = "best",
    precision: Annotated[Precision, typer.Option(help="auto: bf16 on a GPU, fp32 on a CPU")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")] = "auto",
    report: Annotated[
        Path | None, typer.Option("--report", "-o", help="the report's folder (default: evaluation/ in OUTPUT)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure whether pictures follow their conditions: annotated again, beside what they are to be held against."""
    from trainer import console
    from trainer.fidelity.evaluate import evaluate as run
    from trainer.fidelity.report import check_folder, write_report
    from trainer.fidelity.table import show

    console.without_bars()
    folder = report or output / "evaluation"
    check_folder(folder)
    with console.progress() as progress:
        found = run(
            output,
            dataset,
            split=split,
            rows=rows,
            seed=seed,
            sampler_steps=sampler_steps,
            cfg=cfg,
            pictures_per_prompt=pictures_per_prompt,
            against=against,
            protocol_name=protocol,
            annotator=annotator,
            annotator_weights=open_weights(annotator_weights, strict=True),
            batch=batch,
            base=base,
            weights=weights,
            precision=precision,
            device=device,
            progress=progress,
        )
    write_report(found, folder)
    show(found, folder, as_json)
