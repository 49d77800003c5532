"""`python -m trainer evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condprep.cli.options import Json, open_weights
from trainer.cli.options import (
    AnnotatorWeights,
    BaseName,
    Device,
    Kind,
    Output,
    WhichCheckpoint,
    WhichPrecision,
    WhichWeights,
)

DatasetName = Annotated[str | None, typer.Option(help="another dataset than that of the training")]
SplitName = Annotated[str | None, typer.Option(help="its held-out rows (default: data.validation of the recipe)")]
RowCount = Annotated[int, typer.Option(min=2, help="at most that many held-out rows, and as many that were trained on")]
Seed = Annotated[int, typer.Option(help="of the starting noise and the intervals")]
Sampler = Annotated[str | None, typer.Option(help="how pictures are drawn (default: eval.sampler of the recipe)")]
Steps = Annotated[int | None, typer.Option(min=1, help="of the sampler (default: eval.sampler_steps of the recipe)")]
Cfg = Annotated[float | None, typer.Option(min=0, help="classifier-free guidance (default: eval.cfg of the recipe)")]
Pictures = Annotated[int | None, typer.Option(min=1, help="pictures of each row (default: 1)")]
Against = Annotated[
    str | None, typer.Option(help="a second ControlNet, by folder or Hub name, tried on the same base and noise")
]
ProtocolName = Annotated[str | None, typer.Option(help="settings by name: controlnet-plus-plus")]
AnnotatorName = Annotated[
    str | None, typer.Option(help="looks at the pictures, instead of the one that made the dataset's maps")
]
ClipName = Annotated[
    str | None,
    typer.Option(help="CLIP model for CLIP scores, by folder or Hub name (default: clip-vit-base-patch16 if cached)"),
]
InceptionFile = Annotated[
    Path | None, typer.Option(help="torch-fidelity's weights of Inception, for KID (default: what torch has cached)")
]
BatchSize = Annotated[int, typer.Option(min=1, help="pictures that are generated at once")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", "-o", help="the report's folder (default: evaluation/ in OUTPUT, of a checkpoint evaluation-500/)"
    ),
]


OURS = ("protocol", "annotator_weights", "report", "as_json")  # the others are arguments of the function


def evaluate(
    context: typer.Context,
    output: Output,
    dataset: DatasetName = None,
    split: SplitName = None,
    rows: RowCount = 100,
    seed: Seed = 0,
    sampler: Sampler = None,
    sampler_steps: Steps = None,
    cfg: Cfg = None,
    pictures_per_prompt: Pictures = None,
    against: Against = None,
    protocol: ProtocolName = None,
    annotator: AnnotatorName = None,
    annotator_weights: AnnotatorWeights = None,
    kind: Kind = None,
    clip: ClipName = None,
    inception: InceptionFile = None,
    batch: BatchSize = 8,
    base: BaseName = None,
    checkpoint: WhichCheckpoint = None,
    weights: WhichWeights = "best",
    precision: WhichPrecision = "auto",
    device: Device = "auto",
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure whether pictures follow their conditions: annotated again, beside what they are to be held against."""
    from condprep.runtime.folder import check_own
    from trainer.cli import console
    from trainer.cli.table import show
    from trainer.evaluation.evaluate import evaluate as run
    from trainer.evaluation.report import check_folder, write_report

    console.without_bars()
    folder = report or output / ("evaluation" if checkpoint is None else f"evaluation-{checkpoint}")
    if not report:
        check_own(output, [folder.name])
    check_folder(folder)
    with console.progress() as progress:
        asked = {name: value for name, value in context.params.items() if name not in OURS}
        weights_of_annotator = open_weights(annotator_weights, strict=True)
        found = run(
            **asked, protocol_name=protocol, annotator_weights=weights_of_annotator, say=console.say, progress=progress
        )
    write_report(found, folder)
    show(found, folder, as_json)
