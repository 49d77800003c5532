"""Pictures per second and peak memory of training, against diffusers' own script, in one run.

    python -m bench train --size tiny|sd15|sdxl [--resolution 512] [--peer PATH/train_controlnet.py] [--updates 100] [--only RUN ...]

Builds a base with random weights at that size (no download) and a dataset of drawn pictures, then trains with the same
batch, precision, rows and number of threads that decode, each in a process of its own:

    peer       the script at PATH, unmodified (train_controlnet_sdxl.py for --size sdxl)
    no cache   `python -m trainer`, cache.latents = cache.text = false, no average, as the peer has none
    cached     with both caches
    average    with both caches and the moving average of the weights
    compiled   as cached, with train.compile = true; on a CPU, which compiles for minutes, only by --only

Every run is made twice: a short one fills its caches, the long one is measured by the clock at the end of each of its
optimizer's steps, so that neither start-up nor the result count for its speed. "start" is from the program's start to the
end of the first update, with the caches at hand; "data wait" is the share of the time in which there was no batch, as the
trainer's metrics say it. Peak memory is that of the GPU where there is one, else of the process. Speeds on shared machines
wander: compare within a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import environment

# Runs a program, and writes down when its optimizer's steps ended, in seconds since the epoch, and how much memory it took
# at most, in bytes: argv is FILE PROGRAM ARGUMENTS...
MEASURED = """
import atexit, json, resource, runpy, sys, time
from torch import cuda
from torch.optim.optimizer import register_optimizer_step_post_hook
_, file, *sys.argv = sys.argv
steps = []
register_optimizer_step_post_hook(lambda *_: steps.append(time.time()))
def write():
    gpu = cuda.max_memory_allocated() if cuda.is_initialized() else 0
    peak = gpu or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    open(file, "w").write(json.dumps({"steps": steps, "peak": peak}))
atexit.register(write)
script = sys.argv[0].endswith(".py")
(runpy.run_path if script else runpy.run_module)(sys.argv[0], run_name="__main__", **({} if script else {"alter_sys": True}))
"""
SETTLED = 5  # updates until the speed is that of all others


@dataclass(frozen=True)
class Size:
    """What is trained: pixels of a side, pictures of an update, rows of the dataset."""

    resolution: int
    batch: int
    rows: int


SIZES = {"tiny": Size(256, 4, 64), "sd15": Size(512, 8, 512), "sdxl": Size(1024, 2, 128)}
WORDS = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def chosen(arguments: argparse.Namespace) -> Size:
    size = SIZES[arguments.size]
    return replace(size, resolution=arguments.resolution or size.resolution)


def make_base(folder: Path, size: str) -> None:
    """A pipeline folder with random weights: Stable Diffusion XL, 1.5, or 1.5 with a quarter of its width and heads (tiny)."""
    if size == "sdxl":
        make_sdxl(folder)
    else:
        make_sd15(folder, 4 if size == "tiny" else 1)


def make_sd15(folder: Path, part: int) -> None:
    """part: of its width, 4 for a quarter."""
    from diffusers import StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet

    widths = tuple(width // part for width in (320, 640, 1280, 1280))
    heads = 8 // part  # diffusers calls their number attention_head_dim here; each stays as wide as it is
    unet = UNet(
        sample_size=64,
        cross_attention_dim=768 // part,
        block_out_channels=widths,
        norm_num_groups=32 // part,
        attention_head_dim=heads,
    )
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(unet=unet, **common_parts(part), **rest).save_pretrained(folder)


def make_sdxl(folder: Path) -> None:
    from diffusers import StableDiffusionXLPipeline
    from diffusers import UNet2DConditionModel as UNet
    from support.trainer_models import make_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    unet = UNet(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    large = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        **WORDS,
    )
    second = {"text_encoder_2": CLIPTextModelWithProjection(large), "tokenizer_2": make_tokenizer(77)}
    StableDiffusionXLPipeline(unet=unet, **common_parts(1), **second).save_pretrained(folder)


def common_parts(part: int) -> dict[str, Any]:
    """VAE, first text encoder, tokenizer and scheduler of Stable Diffusion."""
    from diffusers import AutoencoderKL, DDPMScheduler
    from support.trainer_models import make_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(
        block_out_channels=tuple(width // part for width in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    text = CLIPTextConfig(
        hidden_size=768 // part,
        intermediate_size=3072 // part,
        num_hidden_layers=12,
        num_attention_heads=12 // part,
        **WORDS,
    )
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    return {"vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": make_tokenizer(77), "scheduler": scheduler}


def make_dataset(folder: Path, size: Size) -> None:
    """Drawn pictures with canny maps, stored as JPEG as photographs are."""
    from support.trainer_models import save_pictures

    import condprep

    pictures = save_pictures(folder.with_name("pictures"), size.rows, (size.resolution, size.resolution))
    condprep.build(pictures, folder, "canny", resolution=size.resolution)


def ours(folder: Path, size: Size, precision: str, workers: int, updates: int, **tables: dict[str, Any]) -> list[str]:
    """The command line of a run of condprep's trainer."""
    from trainer.recipe.toml import dump_recipe, parse_recipe

    values: dict[str, dict[str, Any]] = {
        "model": {"base": str(folder / "base")},
        "data": {
            "path": str(folder / "ds"),
            "resolution": size.resolution,
            "num_workers": workers,
            "caption_dropout": 0.0,
        },
        "train": {"steps": updates, "batch": size.batch, "micro_batch": size.batch, "schedule": "constant"},
        "ema": {"enabled": False},
        "eval": {"every": 0},
        "log": {"every": max(1, updates // 2)},
        "save": {"dir": str(folder / "ours" / str(updates)), "every": 10**6, "resume": "never"},
    }
    merged = {name: values.get(name, {}) | tables.get(name, {}) for name in (*values, "cache")}
    merged["train"]["precision"] = precision
    recipe = folder / "recipe.toml"
    recipe.write_text(dump_recipe(parse_recipe(merged)))
    return ["trainer", str(recipe)]


def peer(script: Path, folder: Path, size: Size, precision: str, workers: int, updates: int) -> list[str]:
    """The command line of diffusers' script."""
    options = {
        "pretrained_model_name_or_path": folder / "base",
        "dataset_name": folder / "ds",
        "output_dir": folder / "peer",
        "resolution": size.resolution,
        "train_batch_size": size.batch,
        "max_train_steps": updates,
        "learning_rate": 1e-5,
        "lr_scheduler": "constant",
        "mixed_precision": {"fp32": "no"}.get(precision, precision),
        "checkpointing_steps": 10**6,
        "dataloader_num_workers": workers,
        "seed": 0,
    }
    return [str(script), *(f"--{name}={value}" for name, value in options.items())]


def measure(folder: Path, command: Sequence[str], updates: int) -> tuple[list[float], int]:
    """When a program's updates ended, in seconds since it began, and the most bytes that it took."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "measured"), *command],
        capture_output=True,
        text=True,
        env=environment(HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error"),
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found = json.loads((folder / "measured").read_text())
    return [end - began for end in found["steps"][-updates:]], found["peak"]  # what is before was a rehearsal


def data_wait(folder: Path, updates: int) -> float | None:
    """Of the second half of our run with that many updates; the peer does not measure it."""
    metrics = folder / "ours" / str(updates) / "metrics.jsonl"
    return json.loads(metrics.read_text().splitlines()[-1])["data_wait"] if metrics.exists() else None


def runs(arguments: argparse.Namespace, folder: Path, on_gpu: bool) -> Iterator[dict[str, Any]]:
    """Every way to train, measured."""
    size, precision = chosen(arguments), arguments.precision or ("bf16" if on_gpu else "fp32")
    common = (folder, size, precision, arguments.workers)
    cached = {"cache": {"latents": True, "text": True}}
    ways: dict[str, Any] = {
        "no cache": lambda n: ours(*common, n, cache={"latents": False, "text": False}),
        "cached": lambda n: ours(*common, n, **cached),
        "average": lambda n: ours(*common, n, **cached, ema={"enabled": True}),
    }
    if on_gpu or "compiled" in (arguments.only or ()):
        ways["compiled"] = lambda n: ours(*common, n, **cached, train={"compile": True})
    if arguments.peer:
        ways = {"peer": lambda n: peer(arguments.peer, *common, n)} | ways
    for name, command in ways.items():
        if arguments.only and name not in arguments.only:
            continue
        measure(folder, command(1), 1)  # fills caches: its own, the dataset's, the disk's
        shutil.rmtree(folder / "ours", ignore_errors=True)
        ends, peak = measure(folder, command(arguments.updates), arguments.updates)
        speed = (len(ends) - SETTLED) * size.batch / (ends[-1] - ends[SETTLED - 1])
        wait = data_wait(folder, arguments.updates)
        yield {"run": name, "pictures_per_second": speed, "data_wait": wait, "peak_gb": peak / 1e9, "start": ends[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--resolution", type=int, help="pixels of a side, instead of the size's own")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--updates", type=int, default=100, help=f"of the measured run, more than {SETTLED}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--only", nargs="+", metavar="RUN", help="some of the runs above")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    import torch

    table, found = Table("run", "pictures/s", "data wait", "peak memory", "start"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", arguments.size)
        make_dataset(folder / "ds", chosen(arguments))
        for row in runs(arguments, folder, torch.cuda.is_available()):
            found.append(row)
            speed = f"{row['pictures_per_second']:.1f} ({row['pictures_per_second'] / found[0]['pictures_per_second']:.2f} x)"
            waited = "" if row["data_wait"] is None else f"{row['data_wait']:.1%}"
            table.add_row(row["run"], speed, waited, f"{row['peak_gb']:.2f} GB", f"{row['start']:.1f} s")
            print(row, file=sys.stderr, flush=True)
    print(json.dumps(found)) if arguments.json else Console().print(table)
