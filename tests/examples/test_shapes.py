"""The world of shapes: what `examples/shapes` draws, and the tiny base that is trained on it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ZImagePipeline

from trainer.evaluation.metrics import edge_f1

EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes"
sys.path.insert(0, str(EXAMPLE))
import draw  # noqa: E402

GROUNDS = ("black", "blue", "green", "purple", "yellow")


def test_the_same_seed_draws_the_same() -> None:
    """Pictures and captions depend on the seed alone, and another seed gives others."""
    first, again, other = (list(draw.pictures(seed, 8)) for seed in (3, 3, 4))
    assert [caption for _, caption in first] == [caption for _, caption in again]
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again))
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(first, other))


def test_a_caption_says_what_is_there() -> None:
    """Every colour of a caption, the ground's too, fills at least 40 pixels, and no other colour of the box does."""
    for image, caption in draw.pictures(5, 60):
        pixels = np.asarray(image).reshape(-1, 3)
        seen = {name for name, colour in draw.COLOURS.items() if (pixels == colour).all(1).sum() >= 40}
        assert seen == set(caption.split()) & set(draw.COLOURS), caption


def test_shapes_lie_apart_and_inside() -> None:
    """The circles around the shapes neither touch nor reach the picture's edge."""
    import math
    import random

    rng = random.Random(0)
    for count in (1, 2, 3) * 30:
        found = draw.places(rng, count)
        assert len(found) == count
        assert all(radius < min(x, y, draw.SIDE - x, draw.SIDE - y) for x, y, radius in found)
        assert all(math.dist(one[:2], two[:2]) > one[2] + two[2] for n, one in enumerate(found) for two in found[:n])


def test_the_flow_base_draws_what_it_is_told() -> None:
    """It loads in its pipeline of diffusers, is of 6 MB at most, and a picture's border has the colour that its caption says."""
    folder = EXAMPLE / "flow"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 6_000_000
    pipeline = ZImagePipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    said = [f"a {'black' if ground == 'yellow' else 'white'} circle on a {ground} background" for ground in GROUNDS]
    made = pipeline(
        said,
        height=64,
        width=64,
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    for ground, picture in zip(GROUNDS, made):
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert np.abs(np.median(border, 0) * 255 - draw.COLOURS[ground]).max() < 30, ground


def test_its_vae_knows_maps() -> None:
    """A condition comes back from the VAE of the flow base, by which the ControlNet sees it: edge F1 of 0.98 within 1 px."""
    import train_flow

    vae = AutoencoderKL.from_pretrained(EXAMPLE / "flow" / "vae", dtype=torch.float32)
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in draw.pictures(seed=9, count=8)]
    maps = train_flow.maps_of(torch.stack(pixels))
    with torch.no_grad():
        made = vae.decode(vae.encode(maps / 127.5 - 1).latent_dist.mode()).sample
    found = ((made > 0) * 255).byte()
    assert min(edge_f1(one[0].numpy(), other[0].numpy(), 1) for one, other in zip(found, maps)) >= 0.98


@pytest.mark.slow
def test_the_base_is_a_pipeline_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `train_base.py` saves, after a handful of steps, loads in diffusers, makes pictures and stays below 5 MB."""
    import train_base
    from diffusers import StableDiffusionPipeline

    for name, value in {
        "PICTURES": 64,
        "HELD_OUT": 8,
        "VAE_STEPS": 3,
        "DECODER_STEPS": 3,
        "UNET_STEPS": 3,
        "SHAPES_STEPS": 3,
    }.items():
        monkeypatch.setattr(train_base, name, value)
    arguments = ["train_base.py", str(tmp_path / "base"), "--work", str(tmp_path / "work"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    train_base.main()
    assert sum(file.stat().st_size for file in (tmp_path / "base").rglob("*") if file.is_file()) < 5_000_000
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    image = pipeline("a red circle on a white background", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


@pytest.mark.slow
def test_the_flow_base_is_a_pipeline_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `train_flow.py` saves, after a handful of steps, loads in diffusers and makes pictures; again, it does nothing."""
    import train_flow

    for name, value in {"PICTURES": 64, "HELD_OUT": 8, "VAE_STEPS": 3}.items():
        monkeypatch.setattr(train_flow, name, value)
    arguments = ["train_flow.py", str(tmp_path / "flow"), "--work", str(tmp_path / "work"), "--minutes", "0.005"]
    monkeypatch.setattr(sys, "argv", arguments)
    with torch.compiler.set_stance("force_eager"):
        train_flow.main()
    pipeline = ZImagePipeline.from_pretrained(tmp_path / "flow", dtype=torch.float32)
    image = pipeline("a red circle on a white background", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)
    logs = {file: file.read_text() for file in (tmp_path / "work").glob("*.log")}
    train_flow.main()
    assert logs == {file: file.read_text() for file in logs}
