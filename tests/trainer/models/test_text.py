"""Captions: chunks, skipped layers, and pipelines that hear prompts as the captions were heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.thorough import slow_ones
from support.trainer_models import FAMILIES, TOKENS, save_base

from trainer.errors import ModelError, RecipeError
from trainer.models.families import Base, load_base
from trainer.models.text import token_chunks
from trainer.recipe.recipe import Model, Text
from trainer.recipe.toml import parse_recipe

SHORT, LONG = "a red disc", "a red disc beside a blue box and a green disc on a grey ground"  # a letter is a token
INSIDE = TOKENS - 2  # tokens of a chunk, without start and end


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_base(tmp_path_factory.mktemp("text") / family, family) for family in FAMILIES}


def base_of(folders: dict[str, Path], family: str, **text: Any) -> Base:
    return load_base(Model(base=str(folders[family])), Text(**text))


def test_one_chunk_is_the_tokenizers_own(folders: dict[str, Path]) -> None:
    """Cut, filled, with start and end as the tokenizer does it, for captions that fit, that do not, and none."""
    base = base_of(folders, "sd15")
    captions = [SHORT, LONG, "", "a" * INSIDE]
    expected = base.tokenizers[0](captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert token_chunks(base.tokenizers[0], base.text_encoders[0], captions, 1).equal(expected)


@pytest.mark.parametrize("family", [*FAMILIES][-1:] + slow_ones([*FAMILIES][:-1]))
def test_a_long_caption_is_its_chunks_one_after_the_other(folders: dict[str, Path], family: str) -> None:
    """Each chunk is what its own tokens alone give; what is left over is empty chunks; pooled text is the first chunk's."""
    alone, two, three = (base_of(folders, family, max_tokens=75 * n) for n in (1, 2, 3))
    found, first = three.encode_text([LONG, SHORT]), alone.encode_text([LONG, SHORT])
    assert found["prompt_embeds"].shape[:2] == (2, 3 * TOKENS)
    torch.testing.assert_close(found["prompt_embeds"][:, :TOKENS], first["prompt_embeds"])
    torch.testing.assert_close(two.encode_text([LONG])["prompt_embeds"], found["prompt_embeds"][:1, : 2 * TOKENS])
    if family == "sdxl":
        torch.testing.assert_close(found["pooled"], first["pooled"])
    for tokenizer, encoder in zip(three.tokenizers, three.text_encoders):
        tokens = tokenizer(LONG, add_special_tokens=False).input_ids
        chunks = token_chunks(tokenizer, encoder, [LONG], 3)
        assert chunks[:, 1:-1].flatten().tolist() == tokens[: 3 * INSIDE]
        assert set(chunks[:, 0].tolist()) == {tokenizer.bos_token_id}
        assert set(chunks[:, -1].tolist()) == {tokenizer.eos_token_id}


@pytest.mark.parametrize("family", ["sd15", "sd2"])
def test_a_skipped_layer_is_that_of_diffusers(folders: dict[str, Path], family: str) -> None:
    """The layer before the last and the last norm, as `encode_prompt(clip_skip=1)` has it; none skipped is the output."""
    base = base_of(folders, family, clip_skip=1)
    encoder = base.text_encoders[0]
    ids = token_chunks(base.tokenizers[0], encoder, [SHORT], 1)
    with torch.no_grad():
        layers = encoder(ids, output_hidden_states=True).hidden_states
        norm = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
        expected = norm(layers[-2])
    found = base.encode_text([SHORT])["prompt_embeds"]
    torch.testing.assert_close(found, expected)
    plain = base_of(folders, family).encode_text([SHORT])["prompt_embeds"]
    torch.testing.assert_close(plain, encoder(ids)[0])
    assert not torch.allclose(found, plain)


def test_a_skipped_layer_of_sdxl_is_counted_from_the_last_but_one(folders: dict[str, Path]) -> None:
    """Whose output it hears anyhow: one more is skipped of both encoders, and the pooled text is as it was."""
    plain, base = base_of(folders, "sdxl"), base_of(folders, "sdxl", clip_skip=1)
    ids = [token_chunks(*of, [SHORT], 1) for of in zip(base.tokenizers, base.text_encoders)]
    with torch.no_grad():
        layers = [of(one, output_hidden_states=True).hidden_states for of, one in zip(base.text_encoders, ids)]
    found = base.encode_text([SHORT])
    torch.testing.assert_close(found["prompt_embeds"], torch.cat([one[-3] for one in layers], -1))
    torch.testing.assert_close(found["pooled"], plain.encode_text([SHORT])["pooled"])


def test_more_layers_than_there_are_cannot_be_skipped(folders: dict[str, Path]) -> None:
    """The key, its value, and how many there are."""
    with pytest.raises(ModelError, match=r"text\.clip_skip = 2, but a text encoder of .* has 2 layers"):
        base_of(folders, "sd15", clip_skip=2)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_pipeline_hears_as_it_was_trained(folders: dict[str, Path], family: str) -> None:
    """Prompts and what is not wanted come in chunks, too; embeddings that are given stay; without chunks it is diffusers' own."""
    base = base_of(folders, family, max_tokens=150)
    pipeline: Any = base.pipeline(base.new_controlnet("unet"))
    made = pipeline.encode_prompt(
        LONG, device="cpu", num_images_per_prompt=2, do_classifier_free_guidance=True, negative_prompt=None
    )
    wanted, nothing = base.encode_text([LONG])["prompt_embeds"], base.encode_text([""])["prompt_embeds"]
    torch.testing.assert_close(made[0], wanted.repeat(2, 1, 1))
    torch.testing.assert_close(made[1], nothing.repeat(2, 1, 1))
    if family == "sdxl":
        torch.testing.assert_close(made[2], base.encode_text([LONG])["pooled"].repeat(2, 1))
    image = torch.rand(1, 3, 64, 64)
    one, other = (
        pipeline(
            prompt, image=image, num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)
        ).images
        for prompt in ("a red disc beside a box", "a red disc beside a fox")
    )
    assert one.shape == (1, 64, 64, 3)
    assert not (one == other).all(), "what comes after the first chunk is not heard"
    plain: Any = base_of(folders, family).pipeline(base.new_controlnet("unet"))
    assert "encode_prompt" not in vars(plain)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_captions_that_are_cut_are_counted(folders: dict[str, Path], family: str) -> None:
    """With their tokens: those of which a chunk, or as many as the recipe says, does not hold all."""
    length = len(base_of(folders, family).tokenizers[0](LONG, add_special_tokens=False).input_ids)
    captions, chunks = [SHORT, LONG, "", "a" * INSIDE], -(-length // INSIDE)
    assert base_of(folders, family).lengths_beyond(captions) == [length]
    assert base_of(folders, family, max_tokens=75 * chunks).lengths_beyond(captions) == []


def test_another_setting_has_another_cache(folders: dict[str, Path]) -> None:
    """The fingerprint of the text is another one for other chunks and other layers, and the default's is as it was."""
    texts: list[dict[str, Any]] = [{}, {"max_tokens": 150}, {"max_tokens": 225}, {"clip_skip": 1}]
    prints = [base_of(folders, "sd15", **text).fingerprints["text"] for text in texts]
    assert len(set(prints)) == len(texts)
    assert prints[0] == base_of(folders, "sd15", keep=3).fingerprints["text"]


def test_shuffled_captions_are_not_cached() -> None:
    """The two keys that exclude each other, and both ways out."""
    with pytest.raises(RecipeError, match=r"text\.shuffle = true cannot be cached: say cache\.text = false"):
        parse_recipe({"text": {"shuffle": True}})
