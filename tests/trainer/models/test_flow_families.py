"""Families with a transformer: text, predictions, losses and gradients are those of diffusers' pipelines and scripts."""

from __future__ import annotations

import hashlib
import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, FluxControlNetPipeline, QwenImageControlNetPipeline
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from support.flow_models import FLOWS, save_flow_base
from support.learners import stir
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.errors import ModelError
from trainer.inference.generate import Request, Sampling, generate
from trainer.models.base import COPIED
from trainer.models.families import FAMILIES, Base, family_of, load_base
from trainer.models.loss import draw, draw_for_training, row_losses
from trainer.models.parts import fingerprint
from trainer.models.quantized import quantize
from trainer.recipe.recipe import Model, Text, Train
from trainer.types import Batch

CAPTIONS = ["a red disc", "", "a very long caption of a blue box that does not fit into so few tokens"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flows")
    return {family: save_flow_base(root / family, family) for family in FLOWS}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    return {family: load_base(Model(base=str(folder))) for family, folder in folders.items()}


def a_batch(base: Base, size: tuple[int, int] = (64, 32), rows: int = 3) -> Batch:
    """Complete, of a bucket that is no square."""
    pixels, conditions = torch.randint(
        0, 256, (2, rows, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    keys = [str(row) for row in range(rows)]
    batch = Batch(keys, [0] * rows, CAPTIONS[:rows], conditions, pixels=pixels)
    return replace(base.complete(batch), pixels=None)


def trained(base: Base) -> Any:
    controlnet = base.new_controlnet(COPIED)
    stir(controlnet)
    return controlnet


@pytest.mark.parametrize("family", FLOWS)
def test_a_base_is_recognised_and_frozen(family: str, folders: dict[str, Path], bases: dict[str, Base]) -> None:
    """The folder says the family; nothing of a base can be trained; classes have the names of the table."""
    base = bases[family]
    assert family_of(folders[family]) == base.family == family
    assert base.prediction_type == "flow"
    assert base.controlnet_kind.__name__ == FAMILIES[family].controlnet
    modules = [base.denoiser, base.vae, *base.text_encoders]
    assert not any(module.training for module in modules)
    assert not any(weight.requires_grad for module in modules for weight in module.parameters())


@pytest.mark.parametrize("family", FLOWS)
def test_text_is_what_the_pipeline_of_diffusers_makes(family: str, bases: dict[str, Base]) -> None:
    """encode_text equals `encode_prompt`, also of what is too long and of nothing; a row does not depend on the others."""
    base = bases[family]
    pipeline: Any = base.pipeline(base.new_controlnet(COPIED))
    found = base.encode_text(CAPTIONS)
    for name, expected in of_the_pipeline(family, pipeline, CAPTIONS).items():
        torch.testing.assert_close(found[name], expected)
    for name, tensor in base.encode_text(CAPTIONS[1:2]).items():
        same = found[name][1:2]
        if base.longest_text is not None:  # as long as it is: what comes after it is nothing
            assert not same[:, tensor.shape[1] :].any()
            same = same[:, : tensor.shape[1]]
        torch.testing.assert_close(tensor, same)


def of_the_pipeline(family: str, pipeline: Any, captions: list[str]) -> dict[str, Tensor]:
    if family == "flux":
        made = pipeline.encode_prompt(captions, device="cpu")
        return {"prompt_embeds": made[0], "pooled": made[1]}
    if family == "qwen-image":
        made = pipeline.encode_prompt(captions, device="cpu")
        return {"prompt_embeds": made[0], "prompt_mask": made[1].float()}
    if family == "z-image":
        rows = pipeline.encode_prompt([*captions], device="cpu", do_classifier_free_guidance=False)[0]
        ones = [torch.ones(len(row)) for row in rows]
        return {"prompt_embeds": pad_sequence(rows, True), "prompt_mask": pad_sequence(ones, True)}
    made = pipeline.encode_prompt(captions, None, None, device="cpu", do_classifier_free_guidance=False)
    return {"prompt_embeds": made[0], "pooled": made[2]}


@pytest.mark.parametrize("family", FLOWS)
def test_each_text_encoder_is_on_the_device_only_while_it_encodes(family: str, bases: dict[str, Base]) -> None:
    """One at a time is moved to where the denoiser is, and back before the next; many captions move each but once."""
    base, moves = bases[family], []
    for number, encoder in enumerate(base.text_encoders):
        encoder.to = lambda place, number=number: moves.append((number, str(place)))  # type: ignore[method-assign]
    try:
        base.encode_text([*CAPTIONS] * 7)
    finally:
        for encoder in base.text_encoders:
            del encoder.to
    assert moves == [(number, "cpu") for number in range(len(base.text_encoders)) for _ in ("there", "back")]


@pytest.mark.parametrize("family", FLOWS)
def test_a_fresh_controlnet_changes_nothing(family: str, bases: dict[str, Base]) -> None:
    """At step 0 the output equals the base model's, whatever the condition; the base's configuration stays what it was."""
    base = bases[family]
    config, batch = dict(base.denoiser.config), a_batch(base)
    assert batch.latents is not None
    noisy, sigmas = torch.randn(batch.latents.mean.shape), torch.tensor([0.1, 0.5, 1.0])
    with torch.no_grad():
        steered = base.predict(base.new_controlnet(COPIED), noisy, sigmas, batch)
        assert steered.equal(base.predict(lambda **_: SILENT[family], noisy, sigmas, batch))
    assert steered.std() > 0.01
    assert dict(base.denoiser.config) == config


# of a ControlNet: nothing is added
SILENT: dict[str, Any] = {"sd3": ([torch.zeros(())],), "flux": (None, None), "qwen-image": None, "z-image": {}}


def plain_loss(base: Base, controlnet: Any, batch: Batch, draws: Any, precondition: bool = False) -> Tensor:
    """The formula of diffusers' train_controlnet_sd3.py, whose conditions are here the posterior's mean."""
    assert batch.latents is not None
    latents = batch.latents.mean + batch.latents.std * draws.posterior
    sigmas = draws.timesteps[:, None, None, None]
    noisy = (1.0 - sigmas) * latents + sigmas * draws.noise
    image = condition_latents(base, batch.conditions / 127.5 - 1)
    prediction = OUTPUT[base.family](base, controlnet, noisy, draws.timesteps * 1000, image, batch.text)
    target = draws.noise - latents
    if precondition:  # --precondition_outputs 1
        prediction, target = prediction * (-sigmas) + noisy, latents
    return F.mse_loss(prediction.float(), target.float(), reduction="mean")


def condition_latents(base: Base, conditions: Tensor) -> Tensor:
    """As the pipelines encode them, but that of Qwen-Image without chance."""
    config = base.vae.config
    if base.family != "qwen-image":
        image: Tensor = base.vae.encode(conditions).latent_dist.mode()
        return (image - config.shift_factor) * config.scaling_factor
    mean, std = (torch.tensor(each).view(1, 4, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    return ((base.vae.encode(conditions.unsqueeze(2)).latent_dist.mode() - mean) * (1.0 / std)).squeeze(2)


def of_sd3(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As the script calls them."""
    said = {"encoder_hidden_states": text["prompt_embeds"], "pooled_projections": text["pooled"]}
    residuals = controlnet(hidden_states=noisy, timestep=timesteps, controlnet_cond=image, return_dict=False, **said)[0]
    output: Tensor = base.denoiser(
        hidden_states=noisy, timestep=timesteps, block_controlnet_hidden_states=residuals, return_dict=False, **said
    )[0]
    return output


def of_flux(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As train_controlnet_flux.py calls them, with the packing and the positions of diffusers' pipeline."""
    rows, channels, height, width = noisy.shape
    pipe = FluxControlNetPipeline
    packed = pipe._pack_latents(noisy, rows, channels, height, width)
    shared = {
        "hidden_states": packed,
        "timestep": timesteps / 1000,
        "guidance": torch.full((rows,), 3.5),
        "pooled_projections": text["pooled"],
        "encoder_hidden_states": text["prompt_embeds"],
        "txt_ids": torch.zeros(text["prompt_embeds"].shape[1], 3),
        "img_ids": pipe._prepare_latent_image_ids(rows, height // 2, width // 2, "cpu", torch.float32),
        "return_dict": False,
    }
    cond = pipe._pack_latents(image, rows, channels, height, width)
    double, single = controlnet(controlnet_cond=cond, **shared)
    output = base.denoiser(controlnet_block_samples=double, controlnet_single_block_samples=single, **shared)[0]
    unpacked: Tensor = pipe._unpack_latents(output, height * 8, width * 8, 8)
    return unpacked


def of_qwen_image(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As its pipeline calls them, with the pipeline's packing."""
    rows, channels, height, width = noisy.shape
    pipe = QwenImageControlNetPipeline
    shared = {
        "hidden_states": pipe._pack_latents(noisy, rows, channels, height, width),
        "timestep": timesteps / 1000,
        "encoder_hidden_states": text["prompt_embeds"],
        "encoder_hidden_states_mask": text["prompt_mask"].long(),
        "img_shapes": [(1, height // 2, width // 2)] * rows,
        "return_dict": False,
    }
    residuals = controlnet(controlnet_cond=pipe._pack_latents(image, rows, channels, height, width), **shared)
    output = base.denoiser(controlnet_block_samples=residuals, **shared)[0]
    unpacked: Tensor = pipe._unpack_latents(output, height * 8, width * 8, 8)
    return unpacked[:, :, 0]


def of_z_image(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As its pipeline calls them, with a ControlNet into which that has registered the transformer's modules."""
    borrowing = copy(controlnet)
    borrowing._modules, borrowing._parameters = dict(controlnet._modules), dict(controlnet._parameters)
    borrowing = type(controlnet).from_transformer(borrowing, base.denoiser)
    said = [states[mask.bool()] for states, mask in zip(text["prompt_embeds"], text["prompt_mask"])]
    latents, time = list(noisy.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000
    residuals = borrowing(latents, time, said, image.unsqueeze(2))
    output = base.denoiser(latents, time, said, controlnet_block_samples=residuals)[0]
    return -torch.stack(output).squeeze(2)


OUTPUT: dict[str, Any] = {"sd3": of_sd3, "flux": of_flux, "qwen-image": of_qwen_image, "z-image": of_z_image}


@pytest.mark.parametrize("weighting", ["none", "preconditioned"])
@pytest.mark.parametrize("family", FLOWS)
def test_loss_and_gradients_are_those_of_the_plain_formula(family: str, weighting: str, bases: dict[str, Base]) -> None:
    """Same weights, rows, noise and sigmas: the loss and every gradient equal the script's, with and without its
    preconditioning. Latents and text from the cache's place equal those made on the way."""
    base, train = bases[family], Train(weighting=weighting)
    controlnet, batch = trained(base), a_batch(base)
    draws = draw_for_training(batch, train, base.objective)
    losses = row_losses(base, controlnet, base.objective, batch, draws)
    loss = (base.objective.weights(draws.timesteps, train) * losses).mean()
    loss.backward()
    ours = [None if weight.grad is None else weight.grad.clone() for weight in controlnet.parameters()]
    controlnet.zero_grad()
    expected = plain_loss(base, controlnet, batch, draws, weighting == "preconditioned")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, weight in zip(ours, controlnet.parameters()):
        torch.testing.assert_close(mine, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FLOWS)
def test_everything_that_is_trained_has_a_gradient(family: str, bases: dict[str, Base]) -> None:
    """What is not heard is not trained: processes that share out an update wait for the gradient of every weight."""
    base = bases[family]
    controlnet, batch = trained(base), a_batch(base, rows=1)
    draws = draw(batch, seed=0, times=base.objective.band(2, 4))
    row_losses(base, controlnet, base.objective, batch, draws).mean().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in controlnet.parameters())


@pytest.mark.parametrize("family", FLOWS)
def test_the_base_is_never_changed(family: str, bases: dict[str, Base]) -> None:
    """Its hash before and after a backward pass; no gradient is kept for it."""
    base = bases[family]
    controlnet, batch = trained(base), a_batch(base)
    before = digest(base.denoiser)
    draws = draw(batch, seed=0, times=base.objective.band(0, 4))
    row_losses(base, controlnet, base.objective, batch, draws).mean().backward()
    assert digest(base.denoiser) == before
    assert all(weight.grad is None for weight in base.denoiser.parameters())


def digest(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("family", FLOWS)
def test_blocks_say_how_much_is_copied(family: str, folders: dict[str, Path]) -> None:
    """`model.blocks`: the first ones, with the base's weights, from_transformer; the usual number is cut to what there is."""
    base = load_base(Model(base=str(folders[family]), blocks=1))
    (block,) = blocks(base.new_controlnet(COPIED))
    mine = block.state_dict()
    theirs = blocks(base.denoiser)[0].state_dict()
    assert all(weight.equal(mine[name]) for name, weight in theirs.items())
    assert not any(mine[name].any() for name in mine.keys() - theirs.keys())
    whole = load_base(Model(base=str(folders[family]))).new_controlnet(COPIED)
    assert len(blocks(whole)) == {"sd3": 2, "flux": 3, "qwen-image": 3, "z-image": 4}[family]


def blocks(network: Any) -> Any:
    """Of a transformer or a ControlNet."""
    names = ("transformer_blocks", "control_layers", "layers")
    return next(getattr(network, name) for name in names if hasattr(network, name))


@pytest.mark.parametrize("family", FLOWS)
def test_the_pipeline_draws_with_these_very_modules(family: str, bases: dict[str, Base]) -> None:
    """`pipeline` is diffusers' own; the condition changes what it draws, and one seed draws one picture. With the
    captions encoded by the base it draws the same."""
    base = bases[family]
    controlnet = trained(base)
    pipeline: Any = base.pipeline(controlnet)
    assert isinstance(pipeline, DiffusionPipeline)
    assert pipeline.transformer is base.denoiser
    pipeline.set_progress_bar_config(disable=True)

    def drawn(colour: str, pipe: Any = pipeline) -> bytes:
        request = Request("a red disc", Image.new("RGB", (32, 64), colour), 3)
        (picture,) = generate(pipe, [request], Sampling(steps=2, cfg=3.0))
        assert picture.size == (32, 64)
        return picture.tobytes()

    assert drawn("white") == drawn("white") != drawn("black")
    validation = base.validation_pipeline(controlnet)
    validation.set_progress_bar_config(disable=True)
    assert drawn("white", validation) == drawn("white")


@pytest.mark.parametrize("family", FLOWS)
def test_what_does_not_fit_is_named(family: str, folders: dict[str, Path], bases: dict[str, Base]) -> None:
    """Keys of other families, more blocks than there are, and a prediction type are ModelErrors that say the remedy."""
    folder = str(folders[family])
    with pytest.raises(ModelError, match=f'is of family "{family}", and model.family = "sdxl"'):
        load_base(Model(base=folder, family="sdxl"))
    with pytest.raises(ModelError, match="predict a flow"):
        load_base(Model(base=folder, prediction_type="epsilon"))
    with pytest.raises(ModelError, match=r"text\.max_tokens and text\.clip_skip are for SD and SDXL"):
        load_base(Model(base=folder), Text(clip_skip=1))
    with pytest.raises(
        ModelError, match=r"model\.blocks = 9: the transformer of .* would not hear all of them; what fits is 1, "
    ):
        load_base(Model(base=folder, blocks=9)).new_controlnet(COPIED)


def test_a_base_in_half_precision_is_loaded_as_it_is_stored(folders: dict[str, Path], tmp_path: Path) -> None:
    """Transformer and text encoders in bf16 take half of the memory; the ControlNet is float32, with their very values;
    other weights have another fingerprint."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folders["sd3"], dtype=torch.bfloat16)
    pipeline.save_pretrained(tmp_path / "half")
    base = load_base(Model(base=str(tmp_path / "half")))
    assert {module.dtype for module in (base.denoiser, *base.text_encoders)} == {torch.bfloat16}
    assert base.vae.dtype == torch.float32
    copied = base.new_controlnet(COPIED)
    assert {weight.dtype for weight in copied.parameters()} == {torch.float32}
    theirs = base.denoiser.transformer_blocks[0].attn.to_q.weight
    assert copied.transformer_blocks[0].attn.to_q.weight.equal(theirs.float())
    base.denoiser.proj_out.weight.data += 1
    assert fingerprint([base.denoiser]) != base.fingerprints["transformer"]


LAST = ("controlnet_blocks.0.weight", "control_layers.0.after_proj.weight")  # through which a ControlNet speaks


@pytest.mark.parametrize("family", FLOWS)
def test_a_base_in_eight_bits_predicts_about_the_same(family: str, folders: dict[str, Path]) -> None:
    """`model.quantize`: the transformer's layers keep bytes, the prediction stays within a few percent, gradients go through."""
    base = load_base(Model(base=str(folders[family])))
    controlnet, batch = trained(base), a_batch(base)
    assert batch.latents is not None
    noisy, sigmas = torch.randn(batch.latents.mean.shape), torch.tensor([0.1, 0.5, 1.0])
    before = base.predict(controlnet, noisy, sigmas, batch).detach()
    quantize(base.denoiser)
    assert any(buffer.dtype == torch.uint8 for buffer in base.denoiser.buffers())
    found = base.predict(controlnet, noisy, sigmas, batch)
    found.square().mean().backward()
    assert (found - before).norm() < 0.1 * before.norm()
    assert all(weight.grad.any() for name, weight in controlnet.named_parameters() if name in LAST)


@pytest.mark.parametrize("family", FLOWS)
def test_a_text_encoder_that_is_missing_is_named(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The folder of T5, or of Qwen, is gone: an error, unless the base itself says that it has none, which of SD 3 is zeros in its place."""
    folder = Path(shutil.copytree(folders[family], tmp_path / "base"))
    part = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}.get(family, "text_encoder")
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"has no {part}"):
        load_base(Model(base=str(folder)))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: [None, None]}))
    if family == "sd3":
        base = load_base(Model(base=str(folder)))
        made = of_the_pipeline(family, base.pipeline(base.new_controlnet(COPIED)), CAPTIONS)
        torch.testing.assert_close(base.encode_text(CAPTIONS)["prompt_embeds"], made["prompt_embeds"])


def test_a_gated_base_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Hub refuses somebody who has not accepted a licence, the error says where that is done, and the login."""
    refused = GatedRepoError(
        "401 Client Error", response=httpx.Response(401, request=httpx.Request("GET", "https://a.test"))
    )

    def download(*_: Any, **__: Any) -> str:
        raise OSError("cannot load the model") from refused

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    with pytest.raises(ModelError, match="licence must be accepted on its page on the Hub, and `hf auth login`"):
        load_base(Model(base="owner/gated"))
