"""Trains a tiny Z-Image on the pictures of `draw.py`, from nothing: 75 minutes on one CPU core.

    python examples/shapes/train_flow.py flow/ --work work/

Three parts, all small. The VAE (64 x 64 x 3 -> 16 x 16 x 4, factor 4, so that a token of Z-Image, 2 x 2 latents, is 8 x 8
pixels) learns pictures and Canny's maps of them, since a ControlNet of a flow-matching base sees its condition through the VAE. The text
encoder, a Qwen3 of one layer, stays as it was drawn: Z-Image hears the last layer but one, which are the embeddings, and they
give each word a direction of its own. The transformer learns the flow from noise to latents. What comes out is an ordinary diffusers folder in fp16 that
`ZImagePipeline.from_pretrained` loads. Seeded; but how many updates the transformer gets, the clock says.

Each stage leaves its result and its log in `work/`, and one that is there is not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down the others

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

sys.path.insert(0, str(Path(__file__).parent))
from draw import SIDE
from train_base import (
    CAPTION_DROPOUT,
    Log,
    as_input,
    batches,
    draw_all,
    encode,
    learn,
    make_certain,
    one_cycle,
    parameters,
    psnr,
    vae_loss,
    write,
)
from words import make_chat_tokenizer

PICTURES, HELD_OUT = 20_000, 512
VAE_STEPS, VAE_BATCH, MAPS = 4000, 16, 4  # of a batch so many are maps
MINUTES, FLOW_BATCH, RATE = 58, 32, 1.5e-3
WARMUP, DECAY = 200, 0.3  # updates until the rate is there; share of the time in which it falls to nothing
WORD = 64  # width of a token's embedding
STAGES = ("vae", "transformer")


def maps_of(pixels: Tensor) -> Tensor:
    """Canny's edges, as `condprep build --annotator canny` finds them: uint8 of the pictures' shape, three channels alike."""
    found = [cv2.Canny(picture.permute(1, 2, 0).contiguous().numpy(), 100, 200) for picture in pixels]
    return torch.from_numpy(np.stack(found))[:, None].repeat(1, 3, 1, 1)


def make_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )
    return vae.to(memory_format=torch.channels_last)  # a quarter faster


def train_vae(pixels: Tensor, held_out: Tensor, log: Log) -> AutoencoderKL:
    """On pictures and maps; the loss is that of `train_base.py`."""
    torch.manual_seed(0)
    vae, maps, held_maps = make_vae(), maps_of(pixels), maps_of(held_out)
    log(f"vae: {parameters(vae)} parameters")
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule, generator = one_cycle(optimizer, VAE_STEPS), torch.Generator().manual_seed(0)
    for step, rows in enumerate(batches(len(pixels), VAE_BATCH, VAE_STEPS, generator)):
        wanted = as_input(torch.cat([pixels[rows[MAPS:]], maps[rows[:MAPS]]]))
        wanted = wanted.contiguous(memory_format=torch.channels_last)
        loss = vae_loss(vae, wanted, generator)
        learn(loss, vae, optimizer, schedule)
        if step % 250 == 249:
            shown = f"held out {psnr(vae, held_out):.2f} dB, maps {psnr(vae, held_maps):.2f} dB"
            log(f"vae {step + 1}: loss {loss.item():.4f}, {shown}")
    vae.register_to_config(scaling_factor=1 / encode(vae, pixels[:2000]).std().item())
    return vae


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WORD,
        intermediate_size=WORD,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=1.0,
    )
    return Qwen3Model(config).requires_grad_(False)


def hear(captions: list[str]) -> list[Tensor]:
    """What Z-Image hears of each: (tokens, WORD)."""
    tokenizer = make_chat_tokenizer()
    words = make_text_encoder(tokenizer).embed_tokens
    said = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) for text in captions]
    return [words(torch.tensor(ids)) for ids in tokenizer(said).input_ids]


def make_transformer() -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=128,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=WORD,
        axes_dims=[8, 12, 12],
        axes_lens=[600, 16, 16],
    )


def flow_errors(
    model: ZImageTransformer2DModel, latents: Tensor, heard: list[Tensor], sigmas: Tensor, noise: Tensor
) -> Tensor:
    """(B,) squared errors of the way from noise to latents; sigmas: (B,) in (0, 1), the share of noise."""
    share = sigmas[:, None, None, None]
    noisy = (1 - share) * latents + share * noise
    found = model(list(noisy.unsqueeze(2)), 1 - sigmas, heard, return_dict=False)[0]
    return (torch.stack(found).squeeze(2) - (latents - noise)).square().mean((1, 2, 3))


@torch.no_grad()
def held_out_loss(model: ZImageTransformer2DModel, latents: Tensor, heard: list[Tensor]) -> str:
    """By quarter of sigma, from the least noise to the most."""
    generator, count = torch.Generator().manual_seed(2), len(latents)
    sigmas, noise = (torch.arange(count) + 0.5) / count, torch.randn(latents.shape, generator=generator)
    order, errors = torch.randperm(count, generator=generator), []
    with torch.compiler.set_stance("force_eager"):
        for places in torch.arange(count).split(64):
            rows = order[places]
            said = [heard[row] for row in rows]
            errors.append(flow_errors(model, latents[rows], said, sigmas[places], noise[places]))
    return " ".join(f"{quarter.mean().item():.4f}" for quarter in torch.cat(errors).chunk(4))


def optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and feed-forward, AdamW for the rest."""
    hidden = {n: p for n, p in model.named_parameters() if p.ndim == 2 and ("attention." in n or "feed_forward." in n)}
    rest = [parameter for name, parameter in model.named_parameters() if name not in hidden]
    return [
        torch.optim.Muon(hidden.values(), lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]


def rate(step: int, done: float) -> float:
    """Of learning; done: share of the time, 0..1."""
    return RATE * min(1, (step + 1) / WARMUP) * min(1, max((1 - done) / DECAY, 0.01))


def train_transformer(
    vae: AutoencoderKL,
    drawn: tuple[Tensor, list[str]],
    held_out: tuple[Tensor, list[str]],
    log: Log,
    minutes: float,
) -> ZImageTransformer2DModel:
    """It ends as its moving average."""
    latents, held = (encode(vae, pixels) * vae.config.scaling_factor for pixels in (drawn[0], held_out[0]))
    heard, held_heard, (empty,) = hear(drawn[1]), hear(held_out[1]), hear([""])
    torch.manual_seed(1)
    model = make_transformer()
    log(f"transformer: {parameters(model)} parameters")
    model.compile_repeated_blocks()
    optimizers = optimizers_of(model)
    ema = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    generator, began, losses = torch.Generator().manual_seed(1), time.monotonic(), list[float]()
    for step, rows in enumerate(batches(len(latents), FLOW_BATCH, sys.maxsize, generator)):
        if (done := (time.monotonic() - began) / (60 * minutes)) >= 1:
            break
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate(step, done)
        dropped = torch.rand(len(rows), generator=generator) < CAPTION_DROPOUT
        said = [empty if drop else heard[row] for row, drop in zip(rows, dropped)]
        sigmas = torch.randn(len(rows), generator=generator).sigmoid()  # logit-normal
        noise = torch.randn(latents[rows].shape, generator=generator)
        loss = flow_errors(model, latents[rows], said, sigmas, noise).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.step(model.parameters())
        losses.append(loss.item())
        if step % 400 == 399:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            shown = f"held out {held_out_loss(model, held, held_heard)}"
            log(f"flow {step + 1}: loss {np.mean(losses[-200:]):.4f}, {shown}, rate {rate(step, done):.2e}")
            ema.restore(model.parameters())
    ema.copy_to(model.parameters())
    log(f"flow {step}: the end, held out {held_out_loss(model, held, held_heard)}")
    return model


def save(folder: Path, work: Path) -> None:
    """A diffusers folder, fp16, of what the stages left in `work`."""
    half, tokenizer = torch.float16, make_chat_tokenizer()
    pipeline = ZImagePipeline(
        vae=make_certain(AutoencoderKL.from_pretrained(work / "vae", dtype=half)),
        transformer=ZImageTransformer2DModel.from_pretrained(work / "transformer", dtype=half),
        text_encoder=make_text_encoder(tokenizer).to(half),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    write(pipeline, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where the stages leave their results and logs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for the transformer")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    drawn, held_out = draw_all(seed=0, count=PICTURES), draw_all(seed=1, count=HELD_OUT)
    for stage in STAGES:
        place, log = arguments.work / stage, arguments.work / f"{stage}.log"
        if (place / "config.json").exists():
            continue
        if stage == "vae":
            train_vae(drawn[0], held_out[0], Log(log)).save_pretrained(place)
        else:
            vae = AutoencoderKL.from_pretrained(arguments.work / "vae")
            train_transformer(vae, drawn, held_out, Log(log), arguments.minutes).save_pretrained(place)
    save(arguments.folder, arguments.work)


if __name__ == "__main__":
    main()
