"""Small real runs of every verb that has `--json`: what is prepared in an empty folder, and the arguments that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageFilter
from support.curated import build_repeats, picture_files
from support.trainer_models import build_dataset, save_base

from condprep import build
from trainer import load_recipe, train
from trainer.inference.export import save_result
from trainer.models.families import load_base
from trainer.recipe.toml import dump_recipe

RECIPE = """
[model]
base = "{folder}/base"
[data]
path = "{folder}/ds"
resolution = 64
num_workers = 0
[train]
steps = 1
batch = 2
micro_batch = 2
precision = "fp32"
device = "cpu"
[eval]
every = 1
samples = 1
sampler_steps = 1
loss_rows = 2
[log]
tracker = "none"
[save]
dir = "{folder}/output"
[cache]
dir = "{folder}/cache"
"""

Arguments = Sequence[object]


def _build(folder: Path) -> Arguments:
    """Photographs, one file that is none, two splits."""
    picture_files(folder / "raw")
    (folder / "raw" / "9-broken.png").write_text("no picture")
    return "build", folder / "raw", "-a", "canny", "--out", folder / "ds", "--resolution", 64, "--validation", 0.4


def _finish(folder: Path) -> Arguments:
    """Of one part, which is all of it."""
    picture_files(folder / "raw")
    build(folder / "raw", folder / "ds", "canny", resolution=64, part="0/1")
    return "finish", folder / "ds"


def _build_into(folder: Path) -> Arguments:
    return "build", build_repeats(folder), "-a", "canny:random", "--into"


def _build_pairs(folder: Path) -> Arguments:
    """Maps that are there already, one of them of another shape than its picture."""
    pairs = folder / "pairs"
    pairs.mkdir()
    picture_files(pairs / "image")
    (pairs / "canny").mkdir()
    for picture in (pairs / "image").iterdir():
        edges = Image.open(picture).convert("L").filter(ImageFilter.FIND_EDGES).point(lambda level: 255 * (level > 60))
        edges = edges.resize((160, 40)) if picture.stem == "1" else edges
        edges.save(pairs / "canny" / f"{picture.stem}.png")
    return "build", pairs, "--condition-column", "canny", "--condition-kind", "canny", "--out", folder / "ds"


def _inspect(folder: Path) -> Arguments:
    return "inspect", build_repeats(folder)


def _split(folder: Path) -> Arguments:
    return "split", build_repeats(folder), "--validation", 0.5


def _merge(folder: Path) -> Arguments:
    return "merge", build_repeats(folder), folder / "ds", "--out", folder / "both"


def _push(folder: Path) -> Arguments:
    return "push", build_repeats(folder), "user/pairs"


def _verify(folder: Path) -> Arguments:
    return "verify", build_repeats(folder)


def _curate(folder: Path) -> Arguments:
    return "curate", build_repeats(folder), "--out", folder / "curated", "--drop", "near-duplicates", "--fix"


def _weights_list(folder: Path) -> Arguments:
    """One file is there, and the others are not."""
    (folder / "hand_pose_model.pth").write_bytes(b"one's own")
    return "weights", "list", "--weights", folder


def _recipe(folder: Path) -> Path:
    save_base(folder / "base")
    build_dataset(folder / "ds", 16)
    (folder / "tiny.toml").write_text(RECIPE.format(folder=folder.as_posix()))
    return folder / "tiny.toml"


def _dry_run(folder: Path) -> Arguments:
    return "train", _recipe(folder), "--dry-run"


def _train(folder: Path) -> Arguments:
    return "train", _recipe(folder)


def _fork(folder: Path) -> Arguments:
    """A new run from what lies in a run's folder when it has ended."""
    recipe = load_recipe(_recipe(folder), ["eval.every=0"])
    controlnet = load_base(recipe.model).new_controlnet("unet")
    weights = list(controlnet.parameters())
    training = {"model": recipe.model.model_dump(mode="json"), "family": "sd", "updates": 1, "rows": 1}
    training |= {"batch": 2, "dataset": "rows", "metrics": {}}
    condition = {"kind": "canny", "column": "conditioning_image", "annotators": []}
    (folder / "output").mkdir()
    (folder / "output" / "recipe.toml").write_text(dump_recipe(recipe))
    save_result(folder / "output", controlnet, weights, None, training, condition)
    return "fork", folder / "output", "--out", folder / "new"


def _evaluate(folder: Path) -> Arguments:
    train(load_recipe(_recipe(folder)))
    return "evaluate", folder / "output", "--rows", 2, "--sampler-steps", 1, "--device", "cpu"


JSON_RUNS: dict[str, tuple[str, Callable[[Path], Arguments]]] = {
    "condprep build": ("condprep", _build),
    "condprep finish": ("condprep", _finish),
    "condprep build --into": ("condprep", _build_into),
    "condprep build of pairs": ("condprep", _build_pairs),
    "condprep inspect": ("condprep", _inspect),
    "condprep verify": ("condprep", _verify),
    "condprep curate": ("condprep", _curate),
    "condprep split": ("condprep", _split),
    "condprep merge": ("condprep", _merge),
    "condprep push": ("condprep", _push),
    "condprep annotators": ("condprep", lambda _: ("annotators",)),
    "condprep doctor": ("condprep", lambda folder: ("doctor", folder)),
    "condprep weights list": ("condprep", _weights_list),
    "trainer train --dry-run": ("trainer", _dry_run),
    "trainer train": ("trainer", _train),
    "trainer fork": ("trainer", _fork),
    "trainer evaluate": ("trainer", _evaluate),
}
