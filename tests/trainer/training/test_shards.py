"""Weights that are shared out to processes: what is learned, written and measured is what one process learns, writes, measures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from support.flow_models import save_flow_base
from support.kinds import KINDS
from support.sharded import learned
from support.trainer_models import build_dataset, save_base
from support.trainer_runs import lines, make_recipe, on_processes, run_task, weights
from support.warm import Warm
from torch import Tensor

from trainer.models.channels import widened
from trainer.models.families import load_base
from trainer.recipe.recipe import Model, Recipe
from trainer.training import sharing
from trainer.training.memory import Memory, predict_memory
from trainer.training.shards import outline, parameters_of
from trainer.training.train import train

CASES: Mapping[str, tuple[str, dict[str, Any], int]] = {  # family, keys of [train], processes
    "flux": ("flux", {}, 4),
    "flux, several kinds": ("flux", {"kinds": KINDS}, 2),
    "sd15": ("sd15", {}, 2),
    "sd15, several kinds": ("sd15", {"kinds": KINDS}, 2),
    "sd3, checkpointed": ("sd3", {"gradient_checkpointing": True}, 2),
    "sd3 in bf16": ("sd3", {"precision": "bf16"}, 4),
    "sdxl, weights in bf16": ("sdxl", {"precision": "bf16", "weights": "bf16"}, 2),
    # eps: with gradients of next to nothing Adam makes whole steps of what is rounding
    "z-image, checkpointed": ("z-image", {"gradient_checkpointing": True, "eps": 1e-6}, 2),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {family: save_flow_base(folder / family, family) for family in ("flux", "sd3", "z-image")}
    return made | {family: save_base(folder / family, family) for family in ("sd15", "sdxl")}


def together(warm: Warm, folder: Path, base: Path, processes: int, **settings: Any) -> dict[str, Any]:
    """What `learned` finds on several processes."""
    folder.mkdir(exist_ok=True)
    (folder / "case.json").write_text(json.dumps({"base": str(base)} | settings))
    code, said = on_processes(warm, folder, processes, "learn=case")
    assert code == 0, said[-3000:]
    found: dict[str, Any] = torch.load(folder / "case.pt")
    return found


@pytest.fixture(scope="module")
def pair(bases: dict[str, Path], warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """Of one process, and of two."""
    return learned(bases["flux"]), together(warm, tmp_path_factory.mktemp("two"), bases["flux"], 2)


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a.float() - b.float()).abs().max().item() for a, b in zip(one, other, strict=True))


def test_what_was_registered_in_a_configuration_stays(bases: dict[str, Path]) -> None:
    """What is validated, and what a run that shares its weights writes, has the configuration of what is trained: SD 3's word to its
    pipeline, and the channels of a ControlNet whose file says nothing of them, where diffusers' from_config takes the defaults."""
    plain = ControlNetModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), norm_num_groups=4, layers_per_block=1
    )
    for network in (load_base(Model(base=str(bases["sd3"]))).new_controlnet("unet"), widened(plain, 2)):
        found = outline(network).config
        assert {key: found[key] for key in network.config if not key.startswith("_")} == {
            key: value for key, value in network.config.items() if not key.startswith("_")
        }


@pytest.mark.slow
def test_two_processes_learn_what_one_does(pair: tuple[dict[str, Any], ...]) -> None:
    """Two clipped updates of accumulated passes: losses, norms of the whole, weights and average, within rounding."""
    one, two = pair
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-5, atol=0)
    assert (one["norms"] > 0.05).all()  # so that they have been clipped
    for which in ("raw", "best", "validated"):
        assert difference(one[which], two[which]) < 1e-5


@pytest.mark.slow
def test_what_is_written_is_whole(pair: tuple[dict[str, Any], ...]) -> None:
    """An optimizer's state has plain tensors of the whole, as without shares."""
    mine, theirs = (found["optimizer"]["state"] for found in pair)
    assert mine.keys() == theirs.keys()
    for number in mine:
        assert {type(value) for value in theirs[number].values()} == {Tensor}
        assert difference([*mine[number].values()], [*theirs[number].values()]) < 1e-6


@pytest.mark.slow
def test_each_process_keeps_its_part_alone(pair: tuple[dict[str, Any], ...], bases: dict[str, Path]) -> None:
    """Of base, ControlNet and moments half of the bytes, but for what an odd number of rows adds; as is predicted."""
    one, two = pair
    for whole, part in [*zip(one["kept"], two["kept"]), (one["moments"], two["moments"])]:
        assert whole / 2 <= part < 0.52 * whole
    words = {"precision": "fp32", "optimizer": "adamw"}
    recipe = Recipe.model_validate({"model": {"base": str(bases["flux"])}, "train": words})
    base = load_base(recipe.model)
    alone, shared = (predict_memory(base, recipe, (16, 16), 1, shares) for shares in (1, 2))
    assert shared.training == alone.training // 2
    assert shared.peak < alone.peak
    assert alone.models == sum(one["kept"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_run_is_that_of_one_process(
    bases: dict[str, Path], warm: Warm, tmp_path: Path, name: str
) -> None:
    """A UNet, checkpointing, bf16 under autocast, and weights in bf16, whose chances are those of the whole; on two or four."""
    family, settings, processes = CASES[name]
    one, more = learned(bases[family], **settings), together(warm, tmp_path, bases[family], processes, **settings)
    narrow = settings.get("precision") == "bf16"
    torch.testing.assert_close(more["losses"], one["losses"], rtol=2e-3 if narrow else 1e-5, atol=0)
    torch.testing.assert_close(more["norms"], one["norms"], rtol=1e-2 if narrow else 1e-5, atol=0)
    for which in ("raw", "best"):
        assert {weight.dtype for weight in more[which]} == {weight.dtype for weight in one[which]}
        assert difference(one[which], more[which]) < (1e-2 if narrow else 1e-5)
        far = sum((a.float() - b.float()).abs().gt(1e-4).sum().item() for a, b in zip(one[which], more[which]))
        assert far < 0.1 * sum(weight.numel() for weight in one[which])


@pytest.mark.slow
def test_what_a_base_lends_stays_whole(bases: dict[str, Path], warm: Warm, tmp_path: Path) -> None:
    """Of Z-Image's base each process keeps half, but for the layers that the ControlNet computes with, too: as is predicted."""
    base = load_base(Model(base=str(bases["z-image"])))
    lent = sum(weight.nbytes for weight in parameters_of(base.denoiser, base.lent))
    whole = sum(weight.nbytes for weight in base.denoiser.parameters())
    assert 0 < lent < whole
    found = together(warm, tmp_path, bases["z-image"], 2)["kept"][0]
    assert found == pytest.approx(lent + (whole - lent) / 2, rel=0.02)


@pytest.fixture(scope="module")
def place(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    build_dataset(folder / "ds", 12)
    (folder / "base").symlink_to(bases["flux"])
    return folder


def recipe(place: Path, out: Path, **tables: dict[str, Any]) -> Recipe:
    """Six updates with a checkpoint and a validation after each three."""
    words = {"steps": 6, "micro_batch": 1, "warmup": 2, "shard": "full"} | tables.pop("train", {})
    rest: dict[str, Any] = {"save": {"every": 3}, "log": {"every": 1}} | tables
    rest["eval"] = {"every": 3, "samples": 1, "loss_rows": 3, "sampler_steps": 2} | rest.get("eval", {})
    return make_recipe(place, out, train=words, **rest)


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """A run of one process."""
    train(recipe(place, place / "alone"))
    return place / "alone"


@pytest.fixture(scope="module")
def shared(place: Path, warm: Warm) -> Path:
    """The same of two processes that share the weights."""
    folder = place / "shared"
    code, said = on_processes(warm, folder, 2, run_task(folder, recipe(place, folder / "out")))
    assert code == 0, said[-3000:]
    return folder / "out"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def stopped(shared: Path, out: Path) -> Path:
    """A copy of a run as it was after its first checkpoint."""
    shutil.copytree(shared, out)
    shutil.rmtree(out / "checkpoints" / "00000006")
    return out


def same(out: Path, alone: Path, *measures: str) -> None:
    """Weights, averages and the last of each measure, within rounding."""
    for which in ("raw", "ema"):
        mine, theirs = weights(out / which), weights(alone / which)
        assert mine.keys() == theirs.keys()
        assert difference([*mine.values()], [*theirs.values()]) < 5e-4
    last = [{name: value for line in lines(folder) for name, value in line.items()} for folder in (out, alone)]
    for name in ("loss", "grad_norm", *measures):
        assert last[0][name] == pytest.approx(last[1][name], rel=1e-3)


@pytest.mark.slow
def test_a_run_is_that_of_one_process(shared: Path, alone: Path) -> None:
    """Validations with an odd number of batches and pictures, checkpoints and result: the same files, the same measures."""
    assert files(shared) == files(alone)
    same(shared, alone, "val_loss", "condition_gap")
    said, record = json.loads((shared / "training.json").read_text()), json.loads((alone / "training.json").read_text())
    assert (said["processes"], said["sharded"]) == (2, True)
    assert (record["processes"], record["sharded"]) == (1, False)


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_other_processes(
    shared: Path, alone: Path, warm: Warm, place: Path, tmp_path: Path
) -> None:
    """Of two by four and by one; of one by two: each ends where the run that was not interrupted does."""
    four, two, one = (stopped(run, tmp_path / name) for run, name in ((shared, "4"), (alone, "2"), (shared, "1")))
    for processes, out in ((4, four), (2, two)):
        folder = tmp_path / f"on{processes}"
        code, said = on_processes(warm, folder, processes, run_task(folder, recipe(place, out, eval={"every": 0})))
        assert code == 0, said[-3000:]
        assert "going on from update 3" in said
    assert train(recipe(place, one, train={"shard": "no"}, eval={"every": 0})).updates == 6
    for out in (four, two, one):
        same(out, alone)


@pytest.mark.slow
def test_a_process_that_dies_while_a_checkpoint_is_gathered(
    alone: Path, warm: Warm, place: Path, tmp_path: Path
) -> None:
    """The run ends with an error, the checkpoint before it is whole, and the same command goes on from there."""
    out = tmp_path / "out"
    code, said = on_processes(warm, tmp_path, 2, run_task(tmp_path, recipe(place, out), "die"))
    assert code != 0
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000003"], said[-3000:]
    heard: list[str] = []
    train(recipe(place, out, eval={"every": 0}), say=heard.append)
    assert "going on from update 3" in heard
    assert any('train.shard = "full", but this is one process' in line for line in heard)
    same(out, alone)


@pytest.mark.parametrize(("free", "chosen"), [(20e9, "no"), (10e9, "full")])
def test_auto_shares_where_one_device_has_no_room(free: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole is predicted, compared with what the fullest device has, and said; on one process nothing is looked at."""
    heard: list[str] = []
    monkeypatch.setattr(sharing, "least", lambda *_: int(free))
    monkeypatch.setattr(sharing, "predict_memory", lambda *words: Memory(int(16e9) // (words[4:] or (1,))[0], 0, 0))
    base: Any = SimpleNamespace(uneven=False)
    made = Recipe.model_validate({"train": {"micro_batch": "auto"}})
    for processes, expected in ((1, "no"), (4, chosen)):
        four: Any = SimpleNamespace(num_processes=processes, is_main_process=True, device=torch.device("cpu"))
        assert sharing.with_sharing(made, base, (64, 64), four, heard.append).train.shard == expected
    (line,) = heard
    assert "takes about 16.0 GB" in line
    assert f'train.shard is "{chosen}"' in line
    assert ("about 4.0 GB on each" in line) == (chosen == "full")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"optimizer": "prodigy", "lr": 1.0}, r'train\.shard = "full" needs train\.optimizer = "adamw", not "prodigy"'),
        ({"optimizer": "adamw8bit"}, r'train\.shard = "full" needs train\.optimizer = "adamw", not "adamw8bit"'),
        ({"precision": "fp16"}, r'train\.shard = "full" has not been tried with train\.precision = "fp16"'),
        ({"compile": True}, r'train\.shard = "full" has not been tried with train\.compile = true'),
    ],
)
def test_what_cannot_be_shared_is_refused(words: dict[str, Any], message: str) -> None:
    """Both keys, and why or what to say instead, before anything is loaded."""
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"train": {"shard": "full"} | words})
