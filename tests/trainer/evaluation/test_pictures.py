"""The pictures of an evaluation: from a row's own seed, by the base alone, through the VAE, by another ControlNet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.painters import HOW, Painter, read_some, train_place

from trainer.errors import ModelError
from trainer.evaluation.examples import Example
from trainer.evaluation.pictures import another, generate_arrays, requests, row_seed, through_vae
from trainer.inference.pipeline import load_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_place(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def rows(place: Path) -> list[Example]:
    return read_some(place)


def test_a_pipeline_without_its_controlnet_is_the_base(place: Path, rows: list[Example]) -> None:
    """Strength 0 is the base alone, bit for bit: the same picture for any condition, which at strength 1 it is not."""
    pipe: Any = load_pipeline(place / "output")
    wanted = requests(rows[:2], [rows[0].image, rows[1].image], 1, seed=0)
    others = requests(rows[:2], [rows[1].image, rows[0].image], 1, seed=0)
    torch.manual_seed(0)
    for weight in pipe.controlnet.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # what two updates from zero convolutions do cannot be seen
    made, again = (generate_arrays(pipe, some, HOW, strength=0.0) for some in (wanted, others))
    assert all(np.array_equal(a, b) for a, b in zip(made, again))
    strong, other = (generate_arrays(pipe, some, HOW, strength=1.0) for some in (wanted, others))
    assert not any(np.array_equal(a, b) for a, b in zip(strong, other))


def test_a_picture_has_its_own_seed(place: Path, rows: list[Example]) -> None:
    """A row's picture is the same alone and in a batch, and another with another seed or number."""
    pipe = load_pipeline(place / "output")
    wanted = requests(rows[:3], [row.image for row in rows[:3]], 2, seed=0)
    together = generate_arrays(pipe, wanted, HOW)
    (alone,) = generate_arrays(pipe, wanted[3:4], HOW)
    assert np.abs(together[3].astype(int) - alone).max() <= 1
    assert not np.array_equal(together[2], together[3])
    assert row_seed(rows[0], 0, seed=0) != row_seed(rows[0], 0, seed=1)


def test_the_vae_round_trip_is_that_of_the_pipeline(place: Path, rows: list[Example]) -> None:
    """Encoded at the posterior's mode and decoded: what diffusers' own image processor makes of it, within one level."""
    pipe: Any = load_pipeline(place / "output")
    (ours,) = through_vae(pipe, [rows[0].original])
    with torch.no_grad():
        pixels = pipe.image_processor.preprocess(Image.fromarray(rows[0].original))
        theirs = pipe.image_processor.postprocess(pipe.vae(pixels).sample)[0]
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.slow
def test_a_vae_that_overflows_in_fp16_makes_its_round_trip_in_fp32(place: Path, rows: list[Example]) -> None:
    """As the pipeline decodes; afterwards it is in fp16 again, with the weights that it had."""
    pipe: Any = load_pipeline(place / "output")
    vae, seen = pipe.vae.half(), []
    before = [weight.clone() for weight in vae.parameters()]
    vae.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    through_vae(pipe, [rows[0].original])
    assert seen == [torch.float32]
    assert all(a.dtype == torch.float16 and a.equal(b) for a, b in zip(vae.parameters(), before))


def test_another_controlnet_is_put_in_and_taken_out(place: Path, tmp_path: Path) -> None:
    """Within the context the pipeline has the other one; one of another base is refused."""
    pipe: Any = load_pipeline(place / "output")
    own = pipe.controlnet
    with another(pipe, str(place / "output" / "raw")):
        assert pipe.controlnet is not own
    assert pipe.controlnet is own
    config = json.loads((place / "output" / "config.json").read_text())
    wider = type(own).from_config(config | {"cross_attention_dim": 48})
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(ModelError, match="cross_attention_dim is 48, not 32"), another(pipe, str(tmp_path / "wider")):
        pass


def test_a_negative_prompt_is_asked_of_every_picture(rows: list[Example]) -> None:
    """The pipeline is given it once a picture, and nothing at all where there is none."""
    given: list[Any] = []

    class Listener(Painter):
        def __call__(self, prompts: list[str], image: list[Image.Image], **how: Any) -> Any:
            given.append(how["negative_prompt"])
            return super().__call__(prompts, image, **how)

    pipe = Listener(lambda condition, _: condition)
    wanted = requests(rows[:2], [row.image for row in rows[:2]], 1, seed=0)
    for how in (HOW, replace(HOW, negative_prompt="blurred")):
        generate_arrays(pipe, wanted, how)
    assert given == [None, ["blurred", "blurred"]]
