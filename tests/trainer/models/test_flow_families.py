"""Families with a transformer: text, predictions, losses and gradients are those of diffusers' pipelines and scripts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxControlNetModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from support.flow_formulas import CAPTIONS, a_batch, blocks, of_the_pipeline, plain_loss, trained
from support.flow_models import FLOWS, save_flow_base
from support.learners import stir
from support.thorough import slow_ones

from trainer.errors import ModelError
from trainer.inference.generate import Request, Sampling, generate
from trainer.models.base import COPIED
from trainer.models.families import FAMILIES, Base, family_of, load_base
from trainer.models.loss import draw, draw_for_training, row_losses
from trainer.models.parts import fingerprint
from trainer.models.quantized import quantize
from trainer.recipe.recipe import Model, Text, Train


@pytest.mark.parametrize("family", FLOWS)
def test_a_base_is_recognised_and_frozen(
    family: str, flow_folders: dict[str, Path], flow_bases: dict[str, Base]
) -> None:
    """The folder says the family; nothing of a base can be trained; classes have the names of the table."""
    base = flow_bases[family]
    assert family_of(flow_folders[family]) == base.family == family
    assert base.prediction_type == "flow"
    assert base.controlnet_kind.__name__ == FAMILIES[family].controlnet
    modules = [base.denoiser, base.vae, *base.text_encoders]
    assert not any(module.training for module in modules)
    assert not any(weight.requires_grad for module in modules for weight in module.parameters())


@pytest.mark.parametrize("family", FLOWS)
def test_text_is_what_the_pipeline_of_diffusers_makes(family: str, flow_bases: dict[str, Base]) -> None:
    """encode_text equals `encode_prompt`, also of what is too long and of nothing; a row does not depend on the others."""
    base = flow_bases[family]
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


@pytest.mark.parametrize("family", FLOWS)
def test_each_text_encoder_is_on_the_device_only_while_it_encodes(family: str, flow_bases: dict[str, Base]) -> None:
    """One at a time is moved to where the denoiser is, and back before the next; many captions move each but once."""
    base, moves = flow_bases[family], []
    for number, encoder in enumerate(base.text_encoders):
        encoder.to = lambda place, number=number: moves.append((number, str(place)))  # type: ignore[method-assign]
    try:
        base.encode_text([*CAPTIONS] * 7)
    finally:
        for encoder in base.text_encoders:
            del encoder.to
    assert moves == [(number, "cpu") for number in range(len(base.text_encoders)) for _ in ("there", "back")]


def test_a_denoiser_makes_room_for_a_text_encoder(flow_bases: dict[str, Base], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device has no room for both, the denoiser leaves it before the encoder comes, and is back afterwards."""
    base, moves = flow_bases["z-image"], []
    monkeypatch.setattr("trainer.models.transformer.has_room", lambda *_: False)
    for name, module in (("denoiser", base.denoiser), ("encoder", base.text_encoders[0])):
        monkeypatch.setattr(module, "to", lambda place, name=name: moves.append(name), raising=False)
    base.encode_text(CAPTIONS)
    assert moves == ["denoiser", "encoder", "encoder", "denoiser"]


@pytest.mark.parametrize("family", FLOWS)
def test_a_fresh_controlnet_changes_nothing(family: str, flow_bases: dict[str, Base]) -> None:
    """At step 0 the output equals the base model's, whatever the condition; the base's configuration stays what it was."""
    base = flow_bases[family]
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


@pytest.mark.parametrize("weighting", ["preconditioned", *slow_ones(["none"])])
@pytest.mark.parametrize("family", FLOWS)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    family: str, weighting: str, flow_bases: dict[str, Base]
) -> None:
    """Same weights, rows, noise and sigmas: the loss and every gradient equal the script's, with and without its
    preconditioning. Latents and text from the cache's place equal those made on the way."""
    compare_with_the_formula(flow_bases[family], weighting)


def compare_with_the_formula(base: Base, weighting: Any = "none") -> None:
    train, controlnet, batch = Train(weighting=weighting), trained(base), a_batch(base)
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


@pytest.mark.slow
def test_flux_schnell_hears_no_guidance(flow_bases: dict[str, Base], tmp_path: Path) -> None:
    """A base of the family without it: its loss and gradients are those of the formula, its pipeline draws, and a ControlNet
    of FLUX.1-dev does not fit."""
    base = load_base(Model(base=str(save_flow_base(tmp_path / "schnell", "schnell"))))
    assert base.family == "flux"
    compare_with_the_formula(base)
    pipeline: Any = base.pipeline(trained(base))
    pipeline.set_progress_bar_config(disable=True)
    found = [
        generate(pipeline, [Request("a disc", Image.new("RGB", (32, 32), colour), 3)], Sampling(steps=1, cfg=0.0))
        for colour in ("white", "black")
    ]
    assert found[0][0].tobytes() != found[1][0].tobytes()
    flow_bases["flux"].new_controlnet(COPIED).save_pretrained(tmp_path / "dev")
    with pytest.raises(ModelError, match="its guidance_embeds is True, and it must be False"):
        base.new_controlnet(str(tmp_path / "dev"))


@pytest.mark.parametrize("family", FLOWS)
def test_everything_that_is_trained_has_a_gradient(family: str, flow_bases: dict[str, Base], tmp_path: Path) -> None:
    """What is not heard is not trained: processes that share out an update wait for the gradient of every weight. So it is of a
    copy, of a ControlNet that was read, as of a fork, and of one with more blocks than are heard."""
    base = flow_bases[family]
    copied, batch = trained(base), a_batch(base, rows=1)
    copied.save_pretrained(tmp_path / "read")
    several = base.copied(base.denoiser, base.layers - 1)  # type: ignore[attr-defined]
    stir(several)
    several.save_pretrained(tmp_path / "several")
    read = [base.new_controlnet(str(tmp_path / name)) for name in ("read", "several")]
    draws = draw(batch, seed=0, times=base.objective.band(2, 4))
    for controlnet in (copied, *read):
        row_losses(base, controlnet, base.objective, batch, draws).mean().backward()
        assert all((weight.grad is not None) == weight.requires_grad for weight in controlnet.parameters())


def test_blocks_of_one_stream_are_trained_as_they_are_used(flow_bases: dict[str, Base], tmp_path: Path) -> None:
    """A FLUX.1 ControlNet of others that has some steers the base by them, too: the loss is that of diffusers' script, every weight that
    is trained has a gradient, and no other."""
    base: Any = flow_bases["flux"]
    config = base.denoiser.config
    heads = {"attention_head_dim": config.attention_head_dim, "num_attention_heads": config.num_attention_heads}
    made = FluxControlNetModel.from_transformer(base.denoiser, 2, len(base.denoiser.single_transformer_blocks), **heads)
    stir(made)
    made.save_pretrained(tmp_path / "others")
    controlnet, batch = base.new_controlnet(str(tmp_path / "others")), a_batch(base, rows=1)
    draws = draw(batch, seed=0, times=base.objective.band(2, 4))
    loss = row_losses(base, controlnet, base.objective, batch, draws).mean()
    torch.testing.assert_close(loss, plain_loss(base, controlnet, batch, draws))
    loss.backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in controlnet.parameters())
    assert controlnet.controlnet_single_blocks[0].weight.grad.abs().max() > 0


def test_a_controlnet_that_looks_at_pixels_is_refused(flow_bases: dict[str, Base], tmp_path: Path) -> None:
    """FLUX.1's by XLabs see the map and not its latents: a ModelError says so before anything is trained."""
    base: Any = flow_bases["flux"]
    config = {key: value for key, value in base.new_controlnet(COPIED).config.items() if key != "_use_default_values"}
    made = FluxControlNetModel.from_config(config | {"conditioning_embedding_channels": 4})
    made.save_pretrained(tmp_path / "pixels")
    with pytest.raises(ModelError, match="pixels' looks at the map's pixels, as XLabs' ControlNets do"):
        base.new_controlnet(str(tmp_path / "pixels"))


@pytest.mark.parametrize("family", FLOWS)
def test_the_base_is_never_changed(family: str, flow_bases: dict[str, Base]) -> None:
    """Its hash before and after a backward pass; no gradient is kept for it."""
    base = flow_bases[family]
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
def test_blocks_say_how_much_is_copied(family: str, flow_folders: dict[str, Path]) -> None:
    """`model.blocks`: the first ones, with the base's weights, from_transformer; the usual number is cut to what there is."""
    base = load_base(Model(base=str(flow_folders[family]), blocks=1))
    (block,) = blocks(base.new_controlnet(COPIED))
    mine = block.state_dict()
    theirs = blocks(base.denoiser)[0].state_dict()
    assert all(weight.equal(mine[name]) for name, weight in theirs.items())
    assert not any(mine[name].any() for name in mine.keys() - theirs.keys())
    whole = load_base(Model(base=str(flow_folders[family]))).new_controlnet(COPIED)
    assert len(blocks(whole)) == {"sd3": 2, "flux": 3, "qwen-image": 3, "z-image": 4}[family]


@pytest.mark.parametrize("family", FLOWS)
def test_the_pipeline_draws_with_these_very_modules(family: str, flow_bases: dict[str, Base]) -> None:
    """`pipeline` is diffusers' own; the condition changes what it draws, and one seed draws one picture. With the
    captions encoded by the base it draws the same."""
    base = flow_bases[family]
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
def test_what_does_not_fit_is_named(family: str, flow_folders: dict[str, Path], flow_bases: dict[str, Base]) -> None:
    """Keys of other families, more blocks than there are, and a prediction type are ModelErrors that say the remedy."""
    folder = str(flow_folders[family])
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


def test_a_base_in_half_precision_is_loaded_as_it_is_stored(flow_folders: dict[str, Path], tmp_path: Path) -> None:
    """Transformer and text encoders in bf16 take half of the memory; the ControlNet is float32, with their very values;
    other weights have another fingerprint."""
    pipeline: Any = DiffusionPipeline.from_pretrained(flow_folders["sd3"], dtype=torch.bfloat16)
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


@pytest.mark.parametrize("family", [*FLOWS][:1] + slow_ones([*FLOWS][1:]))
def test_a_base_in_eight_bits_predicts_about_the_same(family: str, flow_folders: dict[str, Path]) -> None:
    """`model.quantize`: the transformer's layers keep bytes, the prediction stays within a few percent, gradients go through."""
    base = load_base(Model(base=str(flow_folders[family])))
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
def test_a_text_encoder_that_is_missing_is_named(family: str, flow_folders: dict[str, Path], tmp_path: Path) -> None:
    """The folder of T5, or of Qwen, is gone: an error, unless the base itself says that it has none, which of SD 3 is zeros in its place."""
    folder = Path(shutil.copytree(flow_folders[family], tmp_path / "base"))
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


@pytest.mark.parametrize("bare", [True, False])
def test_a_controlnet_learns_with_what_its_pipeline_gives_it(
    bare: bool, flow_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SD 3: one of others, whose configuration has no pooled text and latents that are not shifted, or one of ours, is told in training
    what the pipeline tells it: the same text, and the same latents of a condition."""
    base = load_base(Model(base=str(flow_folders["sd3"])))
    controlnet = base.new_controlnet(COPIED)
    controlnet.register_to_config(force_zeros_for_pooled_projection=bare)
    controlnet.save_pretrained(tmp_path)
    controlnet = base.new_controlnet(str(tmp_path)).eval()
    assert controlnet.config.force_zeros_for_pooled_projection == bare
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_: self.mean)
    heard: list[tuple[torch.Tensor, torch.Tensor]] = []
    controlnet.register_forward_pre_hook(
        lambda _, given, named: heard.append((named["pooled_projections"], named["controlnet_cond"])), with_kwargs=True
    )
    batch = a_batch(base, rows=1)
    draws = draw(batch, seed=0, times=base.objective.band(0, 1))
    with torch.no_grad():
        row_losses(base, controlnet, base.objective, batch, draws)
    condition = Image.fromarray(batch.conditions[0].permute(1, 2, 0).numpy())
    pipeline: Any = base.pipeline(controlnet)
    pipeline.set_progress_bar_config(disable=True)
    generate(pipeline, [Request(batch.captions[0], condition, 3)], Sampling(steps=1, cfg=1.0))
    for learned, used in zip(*heard[:2], strict=True):
        torch.testing.assert_close(learned, used)
    assert heard[0][0].any() != bare
