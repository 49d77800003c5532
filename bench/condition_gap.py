"""The condition gap of ControlNets that follow and that do not, on a base of the quick-start's size that predicts noise.

    python -m bench condition-gap --work DIR [--steps 2000] [--updates 240] [--noise-updates 960]

The quick-start's base, which predicts velocity, is trained on to predict noise (--steps updates of 32 pictures, one thread). Then the
quick-start's ControlNet is trained on both, once with the maps of its pictures, once with those of other pictures, by which it can
follow nothing, and is validated every 40 updates. Where noise is predicted it takes four times as long to follow. DIR keeps the result of each step, and one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import CHECKOUT, environment

SHAPES = CHECKOUT / "examples" / "shapes"
DRAWN = 4000  # pictures that the base goes on with
PICTURES, SEED, EVERY = 1500, 7, 40  # as the quick-start draws them; updates between validations
PEAK = 1e-3  # learning rate: half of what the base began with


def make_epsilon(folder: Path, steps: int) -> None:
    """The quick-start's base, its UNet and text encoder trained on until it predicts noise as well as it did velocity."""
    import torch
    from diffusers import StableDiffusionPipeline
    from torch import nn

    sys.path.insert(0, str(SHAPES))
    import train_base as shapes

    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(SHAPES / "base", torch_dtype=torch.float32)
    pixels, captions = shapes.draw_all(seed=0, count=DRAWN)
    latents = shapes.encode(pipe.vae, pixels) * pipe.vae.config.scaling_factor
    tokens, empty = (
        pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids for text in (captions, [""])
    )
    model = nn.ModuleDict({"unet": pipe.unet.train(), "text": pipe.text_encoder.train()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=1e-3)
    schedule, generator = shapes.one_cycle(optimizer, steps), torch.Generator().manual_seed(9)
    scheduler = shapes.make_scheduler()
    scheduler.register_to_config(prediction_type="epsilon")
    average = shapes.EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    for step, rows in enumerate(shapes.batches(len(pixels), shapes.UNET_BATCH, steps, generator)):
        words = tokens[rows].clone()
        words[torch.rand(len(rows), generator=generator) < shapes.CAPTION_DROPOUT] = empty[0]
        noise = torch.randn(latents[rows].shape, generator=generator)
        times = torch.randint(0, 1000, (len(rows),), generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, times)
        found = model["unet"](noisy, times, model["text"](words)[0]).sample
        loss = nn.functional.mse_loss(found, noise)
        shapes.learn(loss, model, optimizer, schedule)
        average.step(model.parameters())
        if step % 100 == 99:
            print(f"{step + 1} of {steps}: loss {loss.item():.4f}", file=sys.stderr, flush=True)
    average.copy_to(model.parameters())
    pipe.scheduler.register_to_config(prediction_type="epsilon")
    pipe.save_pretrained(folder)


def make_pairs(work: Path) -> None:
    """The quick-start's dataset, and one in which each picture that is trained on has the map of the one before."""
    import datasets

    raw, built = work / "raw", work / "right"
    run(str(SHAPES / "draw.py"), raw, "--pictures", PICTURES, "--seed", SEED)
    run(
        "-m", "condprep", "build", raw, "--annotator", "canny", "--resolution", 64, "--validation", 0.05, "--out", built
    )
    pairs = datasets.load_from_disk(str(built))
    image = datasets.Image(decode=False)
    pairs = pairs.cast_column("image", image).cast_column("conditioning_image", image)
    maps = pairs["train"]["conditioning_image"][:]
    moved = pairs["train"].remove_columns("conditioning_image").add_column("conditioning_image", maps[-1:] + maps[:-1])
    datasets.DatasetDict({**pairs, "train": moved.cast_column("conditioning_image", image)}).save_to_disk(
        work / "wrong"
    )


def learn(work: Path, base: Path, pairs: str, updates: int, out: Path) -> None:
    """The quick-start's ControlNet on a base; whether pictures follow is asked where they can."""
    changed = {
        "model.base": base,
        "model.embedder": "usual",
        "data.path": work / pairs,
        "train.steps": updates,
        "train.lr": 2.5e-3,
        "train.snr_gamma": 0,
        "eval.every": EVERY,
        "eval.samples": 0,
        "eval.fidelity": str(pairs == "right").lower(),
        "save.dir": out,
        "save.every": updates,
        "log.tracker": "none",
    }
    sets = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
    run("-m", "trainer", CHECKOUT / "recipes" / "shapes.toml", *sets)


def run(*command: object) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, env=environment(), stdout=sys.stderr)


def validations(out: Path) -> dict[int, dict[str, float]]:
    """What was measured after each of those updates."""
    found: dict[int, dict[str, float]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if "condition_gap" in values or "fidelity" in values:
            found.setdefault(values["update"], {}).update(values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="the folder that keeps what is made")
    parser.add_argument("--steps", type=int, default=2000, help="updates of the base that predicts noise")
    parser.add_argument("--updates", type=int, default=240, help="of a ControlNet where velocity is predicted")
    parser.add_argument("--noise-updates", type=int, default=960, help="and where noise is")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    epsilon = options.work / "epsilon"
    if not (epsilon / "model_index.json").exists():
        make_epsilon(epsilon, options.steps)
    if not (options.work / "wrong" / "dataset_dict.json").exists():
        make_pairs(options.work)
    table = Table("base", "maps", "update", "fidelity", "gap", "of each band", "of the sums")
    longer, shorter = options.noise_updates, options.updates
    for name, base, updates in (("noise", epsilon, longer), ("velocity", SHAPES / "base", shorter)):
        for pairs in ("right", "wrong"):
            out = options.work / f"{name}-{pairs}"
            if not (out / "config.json").exists():
                learn(options.work, base, pairs, updates, out)
            for update, found in validations(out).items():
                gaps = [found[f"condition_gap_band{n}"] for n in range(4)]
                losses = [found[f"val_loss_band{n}"] for n in range(4)]
                sums = sum(gap * loss for gap, loss in zip(gaps, losses)) / sum(losses)
                follows = "" if "fidelity" not in found else f"{found['fidelity']:.0%}"
                bands = " ".join(f"{gap:.3f}" for gap in gaps)
                table.add_row(name, pairs, str(update), follows, f"{found['condition_gap']:.3f}", bands, f"{sums:.3f}")
    Console(width=120).print(table)
