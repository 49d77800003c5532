"""The commands that tests/support/crash.py stops: small datasets, everything that writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import cv2
from PIL import Image
from support.crash import Scenario
from support.pictures import smooth
from support.preview import told
from support.trainings import RECORDED

import condprep
from condprep.annotation.files import annotate_files
from condprep.annotators.registry import specs
from condprep.dataset import card
from condprep.dataset.contact_sheet import sheet
from condprep.runtime.own import claim
from condprep.verification import unfinished, verify
from condprep.weights.find import Weights

HOW = {"resolution": 64, "shard_rows": 2, "validation": 0.4, "workers": 1}
FILES = [Path("raw/0.png"), Path("raw/1.png")]


def pictures() -> None:
    """Five of them, one of which is broken, and two of which are the same."""
    Path("raw").mkdir()
    for seed in range(4):
        Image.fromarray(smooth(64, 64, seed % 3)).save(f"raw/{seed}.png")
        Path(f"raw/{seed}.txt").write_text(f"a picture {seed}")
    Path("raw/4.png").write_bytes(b"")


def build(**how: object) -> None:
    condprep.build("raw", "ds", ["canny"], **HOW, **how)  # type: ignore[arg-type]


def dataset() -> None:
    pictures()
    build()


def mended() -> None:
    """The broken picture is whole by now, so that the shard that it was in can have it."""
    dataset()
    Image.fromarray(smooth(64, 64, 7)).save("raw/4.png")


def grown() -> None:
    """Two pictures, one of them broken, have come between and behind those that a dataset was built of."""
    dataset()
    Image.fromarray(smooth(64, 64, 8)).save("raw/00.png")
    Image.fromarray(smooth(64, 64, 9)).save("raw/5.png")
    Path("raw/6.png").write_bytes(b"")


def changed() -> None:
    """Of those that a dataset was built of, one is another, one is gone, and one is whole by now; one is new."""
    dataset()
    for name, seed in (("1", 8), ("4", 9), ("6", 10)):
        Image.fromarray(smooth(64, 64, seed)).save(f"raw/{name}.png")
    Path("raw/2.png").unlink()


def two() -> None:
    """Two datasets, which have a picture in common."""
    dataset()
    condprep.build("raw", "other", ["canny"], **HOW, limit=1)


def pairs() -> None:
    """Two folders: pictures with a box in them, and its edges."""
    for folder in ("image", "canny"):
        Path("pairs", folder).mkdir(parents=True)
    for seed in range(3):
        picture = cv2.rectangle(smooth(64, 64, seed), (16, 16), (40 + seed, 48), (255, 0, 0), -1)
        Image.fromarray(picture).save(f"pairs/image/{seed}.png")
        Image.fromarray(cv2.Canny(picture, 100, 200)).save(f"pairs/canny/{seed}.png")


def with_scores() -> None:
    dataset()
    condprep.verify("ds", checks=["structure", "condition"], workers=1)


def fill_caches() -> None:
    """As a run does: one process, a few shards each; the networks are arithmetic."""
    import numpy as np
    import torch

    from trainer.data import cache
    from trainer.types import ONE_PROCESS, Latents

    cache.SHARD_BYTES, cache.SHARD_CAPTIONS = 3 * 8 * 8 * 2, 2
    shards, captions = cache.lay_out([(8, 8)] * 4, mirror=False), cache.distinct(["a", "b"])
    grey = [np.full((8, 8, 3), value, np.uint8) for value in range(4)]
    with cache.one_run(Path("ds.cache"), ONE_PROCESS):
        latents = cache.LatentCache(Path("ds.cache/latents"), shards, "fp32")
        latents.build(
            lambda pixels: Latents(pixels[:, :1].float(), pixels[:, 1:2].float()),
            lambda row: (grey[row.number], grey[row.number]),
            ONE_PROCESS,
            lambda *_: None,
        )
        text = cache.TextCache(Path("ds.cache/text"), captions, "fp32")
        text.build(lambda some: {"prompt_embeds": torch.ones(len(some), 2)}, ONE_PROCESS, lambda *_: None)


def save_checkpoints() -> None:
    """Four updates, of which the two newest stay; goes on after the newest."""
    from trainer.recipe.toml import parse_recipe
    from trainer.training.checkpoint import Checkpoints

    claim(Path("run"))
    recipe = parse_recipe({"model": {"base": "b"}, "data": {"path": "p"}}).model_dump(mode="json")
    kept = Checkpoints(Path("run/checkpoints"), 2)
    newest, _ = kept.choose("auto", recipe, "d")
    kept.tidy(newest)
    state = {"recipe": recipe, "dataset": "d", "position": {}}
    for update in range(newest.update + 1 if newest else 1, 5):
        kept.save(update, partial(write_state, update=update), state)


def write_state(folder: Path, update: int) -> None:
    (folder / "controlnet").mkdir()
    for name in ("controlnet/weights", "optimizer"):
        (folder / name).write_text(f"{name} of {update}")


def export() -> None:
    """The result of a run whose network is one layer."""
    import torch

    from trainer.inference.export import save_result

    claim(Path("run"))
    layer = torch.nn.Linear(2, 2)
    layer.to_json_string = lambda: "{}"  # type: ignore[operator]
    weights = [torch.ones(2, 2), torch.ones(2)]
    condition = {"kind": "canny", "annotators": []}
    save_result(Path("run"), layer, weights, weights, RECORDED, condition)  # type: ignore[arg-type]


def verify_all() -> None:
    """Every row is kept as soon as it is measured."""
    unfinished.KEEP_EVERY = 0
    condprep.verify("ds", checks=["structure", "condition"], workers=1)


def curate_all() -> None:
    unfinished.KEEP_EVERY = 0
    condprep.curate("ds", "out", "duplicates", fix=True, workers=1)


def report_all() -> None:
    unfinished.KEEP_EVERY = 0
    condprep.report("ds", "page.html", workers=1)


def run_folder() -> None:
    Path("run").mkdir()
    Path("run/recipe.toml").write_text("")


def training_place() -> None:
    """A tiny base and a dataset of eight rows."""
    from support.trainer_runs import make_place

    make_place(Path(), 8)


def train_all() -> None:
    """Three updates, a checkpoint and a line after each, a validation, the result."""
    from support.trainer_runs import make_recipe

    from trainer import train

    tables = {
        "train": {"steps": 3, "batch": 2, "micro_batch": 2, "warmup": 0},
        "data": {"num_workers": 0},
        "eval": {"every": 3, "samples": 0, "loss_rows": 2},
        "log": {"every": 1},
        "save": {"every": 1, "keep": 2},
    }
    assert train(make_recipe(Path(), Path("run"), **tables)).finished


BUILDING = {
    "build": Scenario(pictures, build),
    "parquet": Scenario(pictures, lambda: build(format="parquet")),
    "overwrite": Scenario(dataset, lambda: build(overwrite=True)),
    "retry": Scenario(mended, lambda: build(retry_rejects="all")),
    "append": Scenario(grown, lambda: build(append=True)),
    "replace": Scenario(changed, lambda: build(append=True, replace=True)),
    "import": Scenario(pairs, lambda: condprep.build("pairs", "ds", **HOW)),
    "into": Scenario(dataset, lambda: condprep.add_columns("ds", ["canny:random"], workers=1)),
}
CURATING = {
    "curate": Scenario(dataset, curate_all),
    "split": Scenario(dataset, lambda: condprep.split("ds", 0.8)),
    "merge": Scenario(two, lambda: condprep.merge(["ds", "other"], "both")),
    "verify": Scenario(dataset, verify_all),
    "report": Scenario(with_scores, report_all),
    "sheet": Scenario(dataset, lambda: sheet(Path("ds"), Path("sheet.png"))),
    "annotate": Scenario(pictures, lambda: annotate_files(FILES, Path("maps"), annotators="canny", overwrite=True)),
}
TRAINING = {
    "caches": Scenario(lambda: None, fill_caches),
    "checkpoints": Scenario(lambda: None, save_checkpoints),
    "export": Scenario(run_folder, export),
}
LONG = {"train": Scenario(training_place, train_all)}  # seconds each time
SCENARIOS = BUILDING | CURATING | TRAINING | LONG


IMPORTS = {"caches": ("torch",), "curate": ("torch", "pandas"), "export": ("diffusers",)}  # that take a second and more


def prepared(names: Iterable[str]) -> Iterator[tuple[str, Scenario]]:
    """The scenarios, those that import the most at the end: the less is in a process, the sooner it is forked.

    What a process finds out once and keeps is found out for all that are forked from this one: what is installed, CLIP's words,
    and what a scenario imports.
    """
    specs()
    verify._token_counter(Weights(offline=True), [])("a picture")
    card.draw_sheet = told
    heavy = [*IMPORTS]
    for name in sorted(names, key=lambda name: heavy.index(name) if name in heavy else -1):
        for module in IMPORTS.get(name, ()):
            import_module(module)
        yield name, SCENARIOS[name]
