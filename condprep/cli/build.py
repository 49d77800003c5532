"""`condprep build`: its options, and what it shows at the end."""

# ruff: noqa: B006 - typer copies a default

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Context, Option

from condprep.cli import console
from condprep.cli.options import (
    Actors,
    Address,
    Annotators,
    BreakLock,
    Config,
    Device,
    Devices,
    Engine,
    FollowLinks,
    ImageColumn,
    Json,
    Overwrite,
    Private,
    Settings,
    StrictWeights,
    WeightsFolder,
    Workers,
    names,
    of_machine,
    of_maps,
    of_output,
    of_size,
    of_source,
    open_weights,
    parse_settings,
    refuse_others,
)
from condprep.cli.progress import progress
from condprep.cli.push import check_push, push_built
from condprep.cli.slurm import OF_SLURM, check_slurm, on_slurm
from condprep.cli.stopping import Stopped
from condprep.errors import UsageError
from condprep.types import IMPORTED, ConditionKind, DecodeMode, FitMode, ImageFormat

if TYPE_CHECKING:
    from condprep.building.result import BuildResult

Source = Annotated[
    str, Argument(help="folder, imagefolder, Hugging Face dataset (folder, parquet, Hub id), tars, zips, pairs")
]
Out = Annotated[
    str | None, Option("--out", "-o", help="the dataset's folder, or its URL; the same command again resumes")
]
Into = Annotated[bool, Option("--into", help="add the maps as columns to SOURCE, a dataset of condprep; no --out")]

KeepRaw = Annotated[bool, of_maps("--keep-raw", help="also keep depth in 65,536 levels, as --set depth.keep_raw=true")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"] | None, of_maps(help="of the networks that can choose (default: auto)")
]
Primary = Annotated[str | None, of_maps(help="whose map is also conditioning_image (default: the first)")]
DropEmpty = Annotated[bool, of_maps("--drop-empty", help="reject pictures in which nothing is found")]

SourceKind = Annotated[
    Literal["folder", "imagefolder", "huggingface", "webdataset", "zip", "pairs"] | None,
    of_source(
        metavar="KIND",
        help="folder, imagefolder, huggingface, webdataset, zip or pairs, where the source is taken for another",
    ),
]
Split = Annotated[str | None, of_source(help="split of the source")]
ConditionColumn = Annotated[
    str | None, of_source(help="column, or folder, of maps that are there: they are imported, with no --annotator")
]
KindOfCondition = Annotated[
    ConditionKind | None,
    of_source(
        metavar="KIND",
        help="of those maps: canny, scribble, softedge, lineart, depth, normal, pose, segmentation, tile, blur, gray, color or"
        " inpaint (default: what the source says, or they look like)",
    ),
]
CaptionColumn = Annotated[str | None, of_source(help="column of the captions")]
Captions = Annotated[Literal["first", "list"], of_source(help="of several captions: the first, or all")]
MaxPixels = Annotated[int, of_source(help="larger pictures are rejected before decoding")]
AllowTruncated = Annotated[bool, of_source("--allow-truncated", help="use what can be decoded of cut files")]
Decode = Annotated[
    DecodeMode,
    of_source(help="of JPEGs much larger than what they become: at a smaller scale (auto), or in full (exact)"),
]

Resolution = Annotated[int, of_size(help="side of crop and pad, root of a bucket's area; pixels")]
Fit = Annotated[
    FitMode | None, of_size(help="how a picture gets its size (default: crop; of pairs that are there: keep)")
]
MaxUpscale = Annotated[float, of_size(help="what would be enlarged more is rejected")]

Limit = Annotated[int | None, of_source(help="only the first inputs, so many, to try something")]
Append = Annotated[
    bool, Option("--append", help="add what SOURCE has by now to the finished dataset at --out, which stays as it is")
]
Replace = Annotated[
    bool, Option("--replace", help="with --append: make rows anew whose picture changed, take away those of gone ones")
]
Format = Annotated[
    Literal["arrow", "parquet", "webdataset"], of_output(help="parquet is the Hub's layout, webdataset are tars")
]
ShardSize = Annotated[str, of_output(help="rows, bytes or both: 1000, 500MB, 1000,500MB")]
Validation = Annotated[float, of_output(help="share of the rows for validation, chosen by key")]
ValidationBy = Annotated[
    Literal["group"] | None, of_output(help="hold out whole folders, or tars, instead of single pictures")
]
FormatOfImages = Annotated[ImageFormat, of_output(help="of pictures that are changed; others keep their bytes")]
ImageQuality = Annotated[int, of_output(help="of JPEG (4:4:4) and WebP")]
RetryRejects = Annotated[
    list[str],
    of_output("--retry-rejects", metavar="CODE", help="try the rejects of this code again, or all of them; repeatable"),
]
MaxRejects = Annotated[float | None, of_output(help="exit code 1 when a larger share is rejected")]
PushToHub = Annotated[
    str | None,
    of_output("--push-to-hub", metavar="OWNER/NAME", help="then upload it, as `condprep push` does"),
]

Part = Annotated[
    str | None,
    of_machine(
        metavar="I/N",
        help="build only the shards I, I + N, ...: other processes, here or elsewhere, build the other parts, and"
        " `condprep finish` makes the dataset",
    ),
]
Parts = Annotated[
    int | None, of_machine(min=1, help="of --engine slurm: tasks of the array, each of which builds a part")
]
Submit = Annotated[bool, of_machine("--submit", help="of --engine slurm: call sbatch, instead of printing the script")]
SlurmOptions = Annotated[
    list[str],
    of_machine("--slurm-option", metavar="OPTION", help="of sbatch, as --slurm-option=--partition=gpu; repeatable"),
]
BatchSize = Annotated[int | None, of_machine(help="pictures a network call (default: the annotator's own)")]
NetworkMemory = Annotated[
    str | None,
    of_machine(metavar="SIZE", help="that a network may take for pictures, as 12GB (default: half of the device's)"),
]

OF_PUSH = ("push_to_hub", "private")
ADDED = (
    "params",
    "precision",
    "batch_size",
    "network_memory",
    "workers",
    "device",
    "devices",
    "weights",
    "break_lock",
)  # what `add_columns` is told
INTO = {  # the options that `--into` heeds
    *("source", "annotator", "into", "break_lock", "settings", "keep_raw", "precision", "batch_size", "network_memory"),
    *("workers", "device", "devices", "weights", "strict_weights", "as_json"),
}


def build(
    context: Context, source: Source, annotator: Annotators = [], out: Out = None, into: Into = False,
    append: Append = False, replace: Replace = False, overwrite: Overwrite = False, break_lock: BreakLock = False,
    as_json: Json = False,
    settings: Settings = [], keep_raw: KeepRaw = False, precision: Precision = None, primary: Primary = None,
    drop_empty: DropEmpty = False,
    source_kind: SourceKind = None, split: Split = None, image_column: ImageColumn = None,
    condition_column: ConditionColumn = None, condition_kind: KindOfCondition = None,
    caption_column: CaptionColumn = None, config: Config = None, follow_links: FollowLinks = [], limit: Limit = None,
    captions: Captions = "first", max_pixels: MaxPixels = 200_000_000, allow_truncated: AllowTruncated = False,
    decode: Decode = "auto",
    resolution: Resolution = 512, fit: Fit = None, max_upscale: MaxUpscale = 2.0,
    format: Format = "arrow", shard_size: ShardSize = "1000,500MB", validation: Validation = 0.0,
    validation_by: ValidationBy = None,
    image_format: FormatOfImages = "jpeg", image_quality: ImageQuality = 95, max_rejects: MaxRejects = None,
    retry_rejects: RetryRejects = [], push_to_hub: PushToHub = None, private: Private = False,
    batch_size: BatchSize = None, network_memory: NetworkMemory = None, workers: Workers = None,
    device: Device = "auto", devices: Devices = None, engine: Engine = "local", address: Address = None,
    actors: Actors = None, part: Part = None, parts: Parts = None, submit: Submit = False,
    slurm_option: SlurmOptions = [], weights: WeightsFolder = None, strict_weights: StrictWeights = False,
) -> None:  # fmt: skip
    """Turn pictures into a dataset of training pairs."""
    if check_slurm(context):
        _check_options(context.params)
        on_slurm(context)
        return
    check_push(context.params)
    chosen = _options(context.params) | {"weights": open_weights(weights, strict_weights)}
    run = _to_run(context, source, out, names(annotator), chosen)
    try:
        with progress() as advance:
            result = run(progress=advance)
    except Stopped:
        raise Stopped(*_kept(source, out, context.params)) from None
    show_build(result, as_json)
    if push_to_hub:
        push_built(result.path, push_to_hub, private)


def _to_run(
    context: Context, source: str, out: str | None, annotators: tuple[str, ...], options: Mapping[str, Any]
) -> Callable[..., BuildResult]:
    """What makes a dataset, or adds columns to one, and is told of the progress: a choice and no call."""
    from condprep.building.add_columns import add_columns
    from condprep.building.build import build as run

    if context.params["into"]:
        refuse_others(context, "--into", INTO)
        return partial(add_columns, source, annotators, **{name: options[name] for name in ADDED})
    if out is None:
        raise UsageError("give --out for a new dataset, or --into to add columns to SOURCE, a dataset of condprep")
    return partial(run, source, out, annotators, **options)


def _kept(source: str, out: str | None, given: Mapping[str, Any]) -> Iterator[str]:
    """What of a build that was stopped is on disk; nothing of one that had not begun."""
    from condprep.building.keeping import kept_pictures
    from condprep.building.output_folder import layout_of
    from condprep.building.parts import parse_part

    into, append = given["into"], given["append"]
    layout = layout_of(source if into or out is None else out, parse_part(given["part"]))
    if into or append:
        layout = layout.beside("into" if into else "append")
    if kept := kept_pictures(layout):
        yield f"{kept[0]:,} of {kept[1]:,} pictures are kept"


def _check_options(given: Mapping[str, Any]) -> None:
    """Raises UsageError for what would end every part of a build."""
    from condprep.building.options import BuildOptions, parse_options

    known = {"params", "precision", *BuildOptions.model_fields}
    parse_options(
        names(given["annotator"]), **{name: value for name, value in _options(given).items() if name in known}
    )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The command's parameters as keywords of `condprep.build`: most have the same name there."""
    from condprep.building.options import parse_shard_size

    other = ("source", "annotator", "out", "into", "as_json", "weights", "strict_weights", *OF_SLURM[1:], *OF_PUSH)
    options = {name: value for name, value in given.items() if name not in other}
    settings = [*options.pop("settings"), *["depth.keep_raw=true"] * options.pop("keep_raw")]
    size = parse_shard_size(options.pop("shard_size"))
    codes = names(options.pop("retry_rejects"))
    return {**options, **size, "params": parse_settings(settings), "retry_rejects": codes}


def _notes(result: BuildResult) -> Iterator[tuple[str, str]]:
    """What was left out, or not read as it stands: a line a kind, with the first names."""
    for kind, noted in sorted(result.notes.items(), key=lambda item: -item[1]["count"]):
        yield "note", f"{noted['count']:,} x {kind}{console.first_names(noted['names'], noted['count'])}"


def show_build(result: BuildResult, as_json: bool) -> None:
    """Inputs = rows + rejects, by code, and what the rows are."""
    if as_json:
        console.print_json(result)
        return
    console.show_facts(_facts(result))
    place = shlex.quote(result.url or str(result.path))
    if result.part:
        console.say(f"that was part {result.part}; `condprep finish {place}` makes the dataset once all parts are done")
    elif result.rows and "validation" not in result.rows and not result.url:
        from condprep.dataset.splits import enough

        console.say(
            f"no rows are held out, and training measures itself by those; `condprep split {place} --validation {enough(sum(result.rows.values()))}` does it"
        )
    if result.changes and result.stale:
        console.say("rows of inputs that changed, or are gone, were left; the same command with --replace follows them")
    if any(made["annotator"] == IMPORTED for made in result.annotators):
        console.say(f"maps that came with their pictures can be wrong ones: run `condprep verify {place}`")


def _facts(result: BuildResult) -> Iterator[tuple[str, str]]:
    rows, rejected = sum(result.rows.values()), sum(result.rejects.values())
    yield "inputs", f"{result.inputs:,} = {rows:,} rows + {rejected:,} rejected"
    yield "rows", ", ".join(f"{split} {n:,}" for split, n in result.rows.items()) or "none"
    listed = result.path / ".condprep" / "rejects.jsonl"
    yield from console.describe_rejects(result.rejects, listed)
    if result.rejects:
        yield "listed in", str(listed)
    if result.changes:
        known = [what for what in ("added", "replaced", "removed") if what in result.changes]
        yield "changes", "rows " + ", ".join(f"{what} {result.changes[what]:,}" for what in known)
    yield from _notes(result)
    for made in result.annotators:
        yield made["column"], console.describe_annotator(made)
    yield "enlarged", f"{result.enlarged:,}"
    yield "kept bytes", f"{result.untouched:,} pictures needed no change"
    yield "no caption", f"{result.without_caption:,}"
    for missing, n in console.by_number(result.without_map):
        yield "no map", f"{n:,} x {missing}"
    yield "size", f"{result.bytes / 1e6:,.1f} MB of pictures and maps"
    new = result.inputs - result.resumed
    rate = f", {new / result.seconds:.1f} pictures/s" if new and result.seconds else ""
    before = f", {result.resumed:,} done before" if result.resumed else ""
    yield "time", f"{result.seconds:.1f} s{rate}{before}"
    yield "dataset", result.url or str(result.path)
