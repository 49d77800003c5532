"""The command line: every verb is one call of the public API, and a print."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from condprep import __version__
from condprep.cli.curate import curate
from condprep.cli.options import (
    Annotators,
    Device,
    Json,
    Overwrite,
    Settings,
    StrictWeights,
    WeightsFolder,
    names,
    open_weights,
    parse_settings,
)
from condprep.cli.report import report
from condprep.cli.verify import verify
from condprep.errors import BuildFailed, CondprepError, UsageError
from condprep.runtime.malloc import keep_freed_memory
from condprep.types import ConditionKind, FitMode, ImageFormat

app = typer.Typer(
    help="Pictures in, ControlNet training pairs out: maps that line up to the pixel, in Hugging Face datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(
    help="Which weights the annotators need, where they lie, and getting them.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")

INTO = {  # what `build --into` heeds
    *("source", "annotator", "into", "settings", "keep_raw", "precision", "batch_size"),
    *("workers", "device", "weights", "strict_weights", "as_json"),
}


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        print(f"condprep {__version__}")
        raise typer.Exit


@app.command()
def build(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="folder, imagefolder, Hugging Face dataset (folder, parquet, Hub id), tars, pairs")
    ],
    annotator: Annotators = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="the dataset's folder; the same command again resumes")] = None,
    into: Annotated[
        bool, typer.Option("--into", help="add the maps as columns to SOURCE, a dataset of condprep; no --out")
    ] = False,
    resolution: Annotated[int, typer.Option(help="side of crop and pad, root of a bucket's area; pixels")] = 512,
    fit: Annotated[
        FitMode | None, typer.Option(help="how a picture gets its size (default: crop; of pairs that are there: keep)")
    ] = None,
    max_upscale: Annotated[float, typer.Option(help="what would be enlarged more is rejected")] = 2.0,
    settings: Settings = [],  # noqa: B006
    keep_raw: Annotated[
        bool, typer.Option("--keep-raw", help="also keep depth in 65,536 levels, as --set depth.keep_raw=true")
    ] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option(help="of the networks that can choose (default: auto)"),
    ] = None,
    primary: Annotated[
        str | None, typer.Option(help="whose map is also conditioning_image (default: the first)")
    ] = None,
    source_kind: Annotated[
        Literal["folder", "imagefolder", "huggingface", "webdataset", "pairs"] | None,
        typer.Option(help="what the source is, where it is taken for another"),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="column of the pictures")] = None,
    condition_column: Annotated[
        str | None,
        typer.Option(help="column, or folder, of maps that are there: they are imported, with no --annotator"),
    ] = None,
    condition_kind: Annotated[
        ConditionKind | None,
        typer.Option(help="what those maps are (default: what the source says, or they look like)"),
    ] = None,
    caption_column: Annotated[str | None, typer.Option(help="column of the captions")] = None,
    split: Annotated[str | None, typer.Option(help="split of the source")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="reject pictures in which nothing is found")] = False,
    captions: Annotated[
        Literal["first", "list"], typer.Option(help="of several captions: the first, or all")
    ] = "first",
    validation: Annotated[float, typer.Option(help="share of the rows for validation, chosen by key")] = 0.0,
    image_format: Annotated[
        ImageFormat, typer.Option(help="of pictures that are changed; others keep their bytes")
    ] = "jpeg",
    image_quality: Annotated[int, typer.Option(help="of JPEG (4:4:4) and WebP")] = 95,
    max_pixels: Annotated[int, typer.Option(help="larger pictures are rejected before decoding")] = 200_000_000,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="use what can be decoded of cut files")
    ] = False,
    fast_decode: Annotated[
        bool, typer.Option("--fast-decode", help="decode large JPEGs at a smaller scale; changes pixels")
    ] = False,
    shard_size: Annotated[str, typer.Option(help="rows, bytes or both: 1000, 500MB, 1000,500MB")] = "1000,500MB",
    format: Annotated[Literal["arrow", "parquet"], typer.Option(help="parquet is the Hub's layout")] = "arrow",
    batch_size: Annotated[
        int | None, typer.Option(help="pictures a network call (default: the annotator's own)")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="threads (default: the cores)")] = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    strict_weights: StrictWeights = False,
    max_rejects: Annotated[float | None, typer.Option(help="exit code 1 when a larger share is rejected")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn pictures into a dataset of training pairs."""
    from condprep.building.add_columns import add_columns
    from condprep.building.build import build as run
    from condprep.building.options import parse_shard_size
    from condprep.cli import console

    common: dict[str, Any] = {
        "params": parse_settings(settings + ["depth.keep_raw=true"] * keep_raw),
        "precision": precision,
        "batch_size": batch_size,
        "workers": workers,
        "device": device,
        "weights": open_weights(weights, strict_weights),
    }
    if into:
        _refuse_others(context, "--into", INTO)
        with console.progress() as progress:
            result = add_columns(source, names(annotator), progress=progress, **common)
        console.show_build(result, as_json)
        return
    if out is None:
        raise UsageError("give --out for a new dataset, or --into to add columns to SOURCE, a dataset of condprep")
    with console.progress() as progress:
        result = run(
            source,
            out,
            names(annotator),
            resolution=resolution,
            fit=fit,
            max_upscale=max_upscale,
            primary=primary,
            source_kind=source_kind,
            image_column=image_column,
            condition_column=condition_column,
            condition_kind=condition_kind,
            caption_column=caption_column,
            split=split,
            drop_empty=drop_empty,
            captions=captions,
            validation=validation,
            image_format=image_format,
            image_quality=image_quality,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
            fast_decode=fast_decode,
            format=format,
            max_rejects=max_rejects,
            overwrite=overwrite,
            progress=progress,
            **common,
            **parse_shard_size(shard_size),
        )
    console.show_build(result, as_json)


@app.command()
def inspect(
    dataset: Annotated[Path, typer.Argument(help="a dataset's folder")],
    sheet: Annotated[
        Path | None, typer.Option(help="also draw pictures beside their maps, into this PNG or JPEG")
    ] = None,
    rows: Annotated[int, typer.Option(help="rows on the sheet")] = 12,
    as_json: Json = False,
) -> None:
    """What is in a dataset: rows, sizes, captions, provenance, rejects."""
    from condprep.cli import console
    from condprep.dataset.contact_sheet import sheet as draw
    from condprep.dataset.inspect import summarize

    console.show_dataset(summarize(dataset), as_json)
    if sheet:
        draw(dataset, sheet, rows=rows)
        console.say(f"contact sheet: {sheet}")


app.command()(verify)
app.command()(curate)
app.command()(report)


@app.command()
def annotate(
    images: Annotated[list[Path], typer.Argument(help="pictures")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the maps: NAME.png, keypoints in NAME.json")],
    annotator: Annotators = [],  # noqa: B006
    like: Annotated[
        Path | None, typer.Option(help="a dataset whose annotators and geometry are repeated exactly")
    ] = None,
    settings: Settings = [],  # noqa: B006
    resolution: Annotated[
        int | None, typer.Option(help="for a fit that changes the size; pixels (default: 512)")
    ] = None,
    fit: Annotated[FitMode | None, typer.Option(help="how a picture gets its size (default: keep)")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="also write each picture as the annotators saw it")
    ] = False,
    device: Device = "auto",
    weights: WeightsFolder = None,
    strict_weights: StrictWeights = False,
    overwrite: Overwrite = False,
) -> None:
    """Condition maps for a few pictures, at inference time for example."""
    from condprep.annotation import annotate_files
    from condprep.cli import console

    written, rejects = annotate_files(
        images,
        out,
        annotators=names(annotator),
        like=like,
        params=parse_settings(settings),
        resolution=resolution,
        fit=fit,
        pictures=pictures,
        device=device,
        weights=open_weights(weights, strict_weights),
        overwrite=overwrite,
    )
    console.show_annotated(written, rejects)
    if rejects:
        raise typer.Exit(1)


@app.command()
def annotators(as_json: Json = False) -> None:
    """The annotators, their variants, parameters, licences and weights."""
    from condprep.annotators.registry import specs
    from condprep.cli import console

    console.show_annotators(list(specs().values()), as_json)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="where datasets will be written")] = Path(),
    weights: WeightsFolder = None,
    as_json: Json = False,
) -> None:
    """Versions that do not fit together, GPU, memory, disk, weights."""
    from condprep.cli import console
    from condprep.cli.doctor import diagnose

    findings = diagnose(folder, weights=open_weights(weights, strict=False))
    console.show_findings(findings, as_json)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@weights_app.command("list")
def weights_list(weights: WeightsFolder = None, as_json: Json = False) -> None:
    """Every weights file: source, size, licence, sha256, and where it lies on this machine."""
    from condprep.cli import console
    from condprep.weights.find import table

    store = open_weights(weights, strict=False)
    console.show_weights([(pin, store.locate(pin.name)) for pin in table()], as_json)


@weights_app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="files as `weights list` names them")],
    to: Annotated[Path | None, typer.Option(help="copy them into this folder, to be carried elsewhere")] = None,
) -> None:
    """Download weights, checked against their pinned sha256."""
    store = open_weights(None, strict=False)
    for name in names:
        print(store.pull(name, to) if to else store.get(name).path)


@weights_app.command("where")
def weights_where(
    names: Annotated[list[str], typer.Argument(help="files as `weights list` names them")],
    weights: WeightsFolder = None,
) -> None:
    """Where weights lie on this machine; exit code 1 when one does not."""
    from condprep.cli import console

    store = open_weights(weights, strict=False)
    found = {name: store.find(name) for name in names}
    for name, file in found.items():
        print(file.path) if file else console.say(f"{name} is not on this machine; `condprep weights pull {name}`")
    if not all(found.values()):
        raise typer.Exit(1)


class _Stop(BaseException):
    """Ctrl-C, or the SIGTERM of a cluster's preemption: both end cleanly."""


def _stop(*_: object) -> None:
    raise _Stop


def main() -> None:
    """The `condprep` command. Exit codes: 0 done, 1 not (all) done, 2 a mistake in what was asked for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    keep_freed_memory()
    try:
        app()
    except CondprepError as error:
        from condprep.cli import console

        if isinstance(error, BuildFailed) and error.result:
            console.show_build(error.result, as_json="--json" in sys.argv)
        console.fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # what the operating system refuses and nothing above could explain better
        from condprep.cli import console

        console.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except _Stop:
        from condprep.cli import console

        console.fail("stopped; what was finished stays, and the same command goes on from there")
        sys.exit(1)


def _refuse_others(context: typer.Context, mode: str, allowed: set[str]) -> None:
    """Raises UsageError for an option that was given and that the mode would not heed."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        if name not in allowed and given is not None and given.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} has no meaning with {mode}; leave it out")
