"""Trains a tiny Stable Diffusion on the pictures of `draw.py`, from nothing: two hours on two CPU cores.

    python examples/shapes/train_base.py base/ --work work/

Three models, all small: a VAE (64 x 64 x 3 -> 8 x 8 x 16, factor 8 as Stable Diffusion's), a CLIP text encoder for the
words of `draw.py`, and a UNet (v-prediction) that is trained together with it. What comes out is an ordinary diffusers folder
in fp16 that `StableDiffusionPipeline.from_pretrained` loads. Seeded.

Each stage leaves its result and its log in `work/`, and one that is there is not done again. The decoder, which is trained
twice more for itself, and the UNet, which is trained twice, both begin from the VAE and need nothing of each other, so on two
cores `--stage decoder` and `--stage unet` may run side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down the others

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from draw import SIDE, pictures
from words import TOKENS, make_tokenizer

PICTURES, HELD_OUT = 20_000, 512
VAE_STEPS, DECODER_STEPS, UNET_STEPS, SHAPES_STEPS = 5000, 4000, 9000, 12_000
VAE_BATCH, UNET_BATCH = 16, 32
STAGES = ("vae", "decoder", "colours", "unet", "shapes")
CAPTION_DROPOUT = 0.1


class Log:
    """Lines on the screen and in a file, with the seconds since the start of the stage."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.path, self.began = path, time.monotonic()

    def __call__(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            print(line, file=file)


def draw_all(seed: int, count: int) -> tuple[Tensor, list[str]]:
    """(count, 3, SIDE, SIDE) uint8 and the captions."""
    drawn = list(pictures(seed, count))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image, _ in drawn]))
    return pixels.permute(0, 3, 1, 2).contiguous(), [caption for _, caption in drawn]


def as_input(pixels: Tensor) -> Tensor:
    """uint8 -> -1..1."""
    return pixels.float() / 127.5 - 1


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of row numbers, epoch after epoch."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        batch, order = order[:size], order[size:]
        yield batch


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 100) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up, then half a cosine down to a hundredth."""

    def rate(step: int) -> float:
        return min(1, (step + 1) / warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def train_vae(pixels: Tensor, held_out: Tensor, log: Log) -> AutoencoderKL:
    """Sharp edges matter more than anything here, so the differences of neighbours are a part of the loss."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 48),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    log(f"vae: {parameters(vae)} parameters")
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule, generator = one_cycle(optimizer, VAE_STEPS), torch.Generator().manual_seed(0)
    for step, rows in enumerate(batches(len(pixels), VAE_BATCH, VAE_STEPS, generator)):
        wanted = as_input(pixels[rows])
        loss = vae_loss(vae, wanted, generator)
        learn(loss, vae, optimizer, schedule)
        if step % 250 == 249:
            log(f"vae {step + 1}: loss {loss.item():.4f}, held out {psnr(vae, held_out):.2f} dB")
    vae.register_to_config(scaling_factor=1 / encode(vae, pixels[:2000]).std().item())
    return vae


def vae_loss(vae: AutoencoderKL, wanted: Tensor, generator: torch.Generator) -> Tensor:
    posterior = vae.encode(wanted).latent_dist
    made = vae.decode(posterior.sample(generator=generator)).sample
    sharp = sum(F.l1_loss(made.diff(dim=d), wanted.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(made, wanted) + F.mse_loss(made, wanted) + sharp + 2e-6 * posterior.kl().mean()


def train_decoder(vae: AutoencoderKL, pixels: Tensor, held_out: Tensor, log: Log, squared: float, seed: int) -> None:
    """The decoder goes on alone: purer colours and sharper corners from the same latents, a little disturbed.

    squared: weight of the squared error, which what is far off, such as a wrong colour, has most of.
    """
    torch.manual_seed(2)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    latents, disturbed = encode(vae, pixels), 0.05 / vae.config.scaling_factor
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule, generator = one_cycle(optimizer, DECODER_STEPS), torch.Generator().manual_seed(seed)
    for step, rows in enumerate(batches(len(pixels), VAE_BATCH, DECODER_STEPS, generator)):
        wanted, noise = as_input(pixels[rows]), torch.randn(latents[rows].shape, generator=generator)
        made = vae.decode(latents[rows] + disturbed * noise).sample
        sharp = sum(F.l1_loss(made.diff(dim=d), wanted.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(made, wanted) + squared * F.mse_loss(made, wanted) + sharp
        learn(loss, decoder, optimizer, schedule)
        if step % 250 == 249:
            log(f"decoder {step + 1}: loss {loss.item():.4f}, held out {psnr(vae, held_out):.2f} dB")


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: Tensor) -> float:
    wanted = as_input(pixels)
    made = vae.decode(vae.encode(wanted).latent_dist.mode()).sample.clamp(-1, 1)
    return 10 * math.log10(4 / F.mse_loss(made, wanted).item())


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    return torch.cat([vae.encode(as_input(part)).latent_dist.mode() for part in pixels.split(256)])


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=16,
        out_channels=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(56, 72),
        layers_per_block=1,
        cross_attention_dim=48,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def make_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
    )


def train_unet(
    model: nn.ModuleDict,
    vae: AutoencoderKL,
    drawn: tuple[Tensor, list[str]],
    held_out: tuple[Tensor, list[str]],
    log: Log,
    steps: int,
    seed: int,
) -> None:
    """UNet and text encoder together; they end as their moving averages."""
    for name, part in model.items():
        log(f"{name}: {parameters(part)} parameters")
    tokenizer, scheduler, (pixels, captions) = make_tokenizer(), make_scheduler(), drawn
    latents = encode(vae, pixels) * vae.config.scaling_factor
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    empty = tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    held = encode(vae, held_out[0]) * vae.config.scaling_factor
    held_tokens = tokenizer(held_out[1], padding="max_length", return_tensors="pt").input_ids
    ema = EMAModel(model.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule, generator = one_cycle(optimizer, steps), torch.Generator().manual_seed(seed)
    for step, rows in enumerate(batches(len(pixels), UNET_BATCH, steps, generator)):
        words = tokens[rows].clone()
        words[torch.rand(len(rows), generator=generator) < CAPTION_DROPOUT] = empty[0]
        loss = v_loss(model, scheduler, latents[rows], words, generator)
        learn(loss, model, optimizer, schedule)
        ema.step(model.parameters())
        if step % 500 == 499:
            with torch.no_grad():
                measured = v_loss(model, scheduler, held, held_tokens, torch.Generator().manual_seed(2))
            log(f"unet {step + 1}: loss {loss.item():.4f}, held out {measured.item():.4f}")
    ema.copy_to(model.parameters())


def load_unet(folder: Path) -> nn.ModuleDict:
    """What a stage saved, to go on from."""
    unet, text = UNet2DConditionModel.from_pretrained(folder), CLIPTextModel.from_pretrained(folder / "text")
    return nn.ModuleDict({"unet": unet.train(), "text": text.train()})


def v_loss(
    model: nn.ModuleDict, scheduler: DDPMScheduler, latents: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(0, 1000, (len(latents),), generator=generator)
    noisy, wanted = scheduler.add_noise(latents, noise, times), scheduler.get_velocity(latents, noise, times)
    return F.mse_loss(model["unet"](noisy, times, model["text"](tokens)[0]).sample, wanted)


def learn(
    loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,}"


@torch.no_grad()
def make_certain(vae: AutoencoderKL) -> AutoencoderKL:
    """Its posterior becomes the mean alone, from which decoder and UNet have learned: who draws from it gets the mean."""
    deviations = slice(vae.config.latent_channels, None)  # log variances, of which diffusers takes -30 as the least
    vae.quant_conv.weight[deviations] = 0
    vae.quant_conv.bias[deviations] = -30
    return vae


def save(folder: Path, work: Path) -> None:
    """A diffusers folder, fp16, of what the stages left in `work`."""
    half = torch.float16
    pipeline = StableDiffusionPipeline(
        vae=make_certain(AutoencoderKL.from_pretrained(work / "colours", torch_dtype=half)),
        unet=UNet2DConditionModel.from_pretrained(work / "shapes", torch_dtype=half),
        text_encoder=CLIPTextModel.from_pretrained(work / "shapes" / "text", dtype=half),
        tokenizer=make_tokenizer(),
        scheduler=UniPCMultistepScheduler.from_config(make_scheduler().config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write(pipeline, folder)


def write(pipeline: DiffusionPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where it lay
        path.write_text(json.dumps(config, indent=2) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"saved {folder}, {size / 1e6:.2f} MB")


def do_stage(stage: str, work: Path) -> None:
    """Trains one part and leaves it in `work`."""
    log = Log(work / f"{stage}.log")
    drawn, held_out = draw_all(seed=0, count=PICTURES), draw_all(seed=1, count=HELD_OUT)
    if stage == "vae":
        train_vae(drawn[0], held_out[0], log).save_pretrained(work / stage)
        return
    vae = AutoencoderKL.from_pretrained(work / ("decoder" if stage == "colours" else "vae"))
    if stage in ("decoder", "colours"):
        train_decoder(vae, drawn[0], held_out[0], log, *((4, 3) if stage == "decoder" else (16, 4)))
        vae.save_pretrained(work / stage)
        return
    if stage == "unet":
        torch.manual_seed(1)
        model = nn.ModuleDict({"unet": make_unet(), "text": make_text_encoder(make_tokenizer())})
        train_unet(model, vae, drawn, held_out, log, UNET_STEPS, seed=1)
    else:
        model = load_unet(work / "unet")
        train_unet(model, vae, drawn, held_out, log, SHAPES_STEPS, seed=5)
    model["text"].save_pretrained(work / stage / "text")
    model["unet"].save_pretrained(work / stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where the stages leave their results and logs")
    parser.add_argument(
        "--stage", choices=STAGES, help="only this one (default: all that are missing, then the folder)"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for stage in STAGES:
        wanted = arguments.stage in (None, stage)
        if wanted and not (arguments.work / stage / "config.json").exists():
            do_stage(stage, arguments.work)
    if arguments.stage is None:
        save(arguments.folder, arguments.work)


if __name__ == "__main__":
    main()
