"""Weights, model folders and recipes of strangers: bounded, refused by name, and nothing in them is run."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from support.trainer_models import save_base
from transformers import CLIPTextModel, CLIPTokenizer

from condprep.errors import CondprepError, WeightsError
from condprep.weights.find import WeightFile, read_checkpoint
from trainer.errors import CheckpointError, ModelError, RecipeError
from trainer.inference.pipeline import load_pipeline
from trainer.models.families import family_of
from trainer.models.parts import check_config, read_config, read_model, read_part
from trainer.models.single_file import open_single_file
from trainer.recipe.toml import LARGEST, load_recipe
from trainer.training.folder import check_folder, own
from trainer.training.state import read_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "base")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there once code of others has run."""
    return tmp_path / "ran"


class Runs:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


# safetensors


def claimed(header: bytes | dict[str, Any], data: bytes = bytes(64), length: int | None = None) -> bytes:
    """A file of safetensors. length: what it says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[Any], start: Any, end: Any, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


ONE = tensor([4], 0, 16)
HEADERS = {
    "a header of 2**62 bytes": claimed({"a": ONE}, length=2**62),
    "a header of 2**64 - 1 bytes": claimed({"a": ONE}, length=2**64 - 1),
    "a header of 99 MB that is not there": claimed({"a": ONE}, length=99_000_000),
    "overlapping tensors": claimed({"a": ONE, "b": tensor([4], 8, 24)}, bytes(24)),
    "an end before its start": claimed({"a": tensor([4], 16, 0)}, bytes(16)),
    "a negative offset": claimed({"a": tensor([4], -16, 0)}, bytes(16)),
    "an end beyond the file": claimed({"a": tensor([2**40], 0, 2**42)}),
    "2**62 numbers": claimed({"a": tensor([2**62], 0, 16)}, bytes(16)),
    "more numbers than can be counted": claimed({"a": tensor([2**40, 2**40], 0, 16)}, bytes(16)),
    "a negative side": claimed({"a": tensor([-4], 0, 16)}, bytes(16)),
    "no number for a side": claimed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', bytes(16)),
    "a fraction for a side": claimed({"a": tensor([4.5], 0, 16)}, bytes(16)),
    "an unknown type": claimed({"a": tensor([4], 0, 16, "F31")}, bytes(16)),
    "deep json": claimed(b"[" * 1_000_000),
    "deep metadata": claimed(b'{"__metadata__":' + b'{"a":' * 100_000),
    "no object": claimed(b"[]"),
    "bad utf-8": claimed(b'{"\xff\xfe": 1}'),
    "numbers that nobody counted": claimed({"a": ONE}, bytes(32)),
    "nothing": b"",
    "half a length": b"\1\0\0",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    """As weights of an annotator and as a base: in words that name the file, and within megabytes."""
    path = tmp_path / "lying.safetensors"
    path.write_bytes(HEADERS[name])
    tracemalloc.start()
    for error, act in (
        (WeightsError, lambda: read_checkpoint(WeightFile("lying", path, "0" * 64, pinned=False))),
        (ModelError, lambda: open_single_file(path, "")),
    ):
        with pytest.raises(error, match=r"lying\.safetensors"):
            act()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_of_two_tensors_of_one_name_none_is_half_another(tmp_path: Path) -> None:
    """A name that is there twice: refused, or one of both as a whole."""
    path = tmp_path / "twice.safetensors"
    one, other = json.dumps(ONE), json.dumps(tensor([4], 16, 32))
    path.write_bytes(claimed(f'{{"a":{one},"a":{other}}}'.encode(), bytes(16) + b"\0\0\x80\x3f" * 4))
    try:
        found = read_checkpoint(WeightFile("twice", path, "0" * 64, pinned=False))
    except WeightsError:
        return
    assert isinstance(found, dict)
    assert found["a"].tolist() in ([0.0] * 4, [1.0] * 4)


# folders


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("part", "kind", "key"),
    [
        ("unet", UNet2DConditionModel, "layers_per_block"),
        ("unet", UNet2DConditionModel, "transformer_layers_per_block"),
        ("vae", AutoencoderKL, "layers_per_block"),
        ("text_encoder", CLIPTextModel, "num_hidden_layers"),
    ],
)
@pytest.mark.parametrize("value", [10**9, [1, [2, 10**9]], float("inf")])
def test_layers_without_end_are_refused(base: Path, part: str, kind: Any, key: str, value: Any) -> None:
    """A configuration that asks for a billion layers, each of which takes time and memory to make."""
    change(base / part / "config.json", **{key: value})
    with pytest.raises(ModelError, match=f"{key} = .* is more than the 200"):
        read_part(kind, base, part, safetensors=True)


def test_widths_that_no_weights_have_take_no_memory(base: Path) -> None:
    """Layers of 2**40 numbers are not made before the weights are compared."""
    change(base / "unet" / "config.json", block_out_channels=[1 << 20, 1 << 20])
    change(base / "text_encoder" / "config.json", hidden_size=1 << 20, intermediate_size=1 << 20)
    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder")):
        with pytest.raises(ModelError, match="cannot be loaded"):
            read_part(kind, base, part, safetensors=True)


@pytest.mark.parametrize("config", [b"", b"[]", b"3", b"[" * 100_000, b"\xff", b'{"layers_per_block": {"a": 1}}'])
def test_odd_configurations_end_in_words(base: Path, config: bytes) -> None:
    """Whatever lies where a configuration should be."""
    (base / "unet" / "config.json").write_bytes(config)
    with pytest.raises(ModelError):
        read_part(UNet2DConditionModel, base, "unet", safetensors=True)
    (base / "model_index.json").write_bytes(config)
    with pytest.raises(ModelError):
        family_of(base)
    check_config(base / "nowhere")


def test_code_of_a_base_stays_unread(base: Path, marker: Path) -> None:
    """Classes of its own in model_index.json, `auto_map` in configurations and tokenizers, modules beside them."""
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Own: pass\n"
    for folder in (base, base / "unet", base / "text_encoder", base / "tokenizer"):
        (folder / "own.py").write_text(code)
    change(base / "model_index.json", unet=["own", "Own"], text_encoder=["own", "Own"], tokenizer=["own", "Own"])
    mapped = {"auto_map": {"AutoModel": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}}
    change(base / "unet" / "config.json", _class_name="Own", **mapped)
    change(base / "text_encoder" / "config.json", architectures=["Own"], **mapped)
    change(base / "tokenizer" / "tokenizer_config.json", tokenizer_class="Own", **mapped)
    for act in (
        lambda: read_part(UNet2DConditionModel, base, "unet", safetensors=True),
        lambda: read_part(CLIPTextModel, base, "text_encoder", safetensors=True),
        lambda: read_config(CLIPTokenizer, base, "tokenizer"),
    ):
        try:
            act()
        except CondprepError:
            continue
    assert not marker.exists()


@pytest.mark.parametrize("admitted", [False, True])
def test_pickles_of_a_base_run_nothing(base: Path, marker: Path, admitted: bool) -> None:
    """Weights in a pickle instead of safetensors: refused; where model.safetensors = false admits them, tensors alone."""
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (base / part / f"{name}.safetensors").unlink()
        stored = "pytorch_model" if name == "model" else name
        (base / part / f"{stored}.bin").write_bytes(pickle.dumps({"a": Runs(marker)}))
    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder")):
        with pytest.raises(ModelError):
            read_part(kind, base, part, safetensors=not admitted)
    assert not marker.exists()


def test_a_result_of_others_is_read_as_tensors(base: Path, marker: Path, tmp_path: Path) -> None:
    """`sample` and `evaluate` of a folder whose weights are a pickle, or whose configuration is none: refused by name."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "condition.json").write_text('{"kind": "canny"}')
    (tmp_path / "run" / "training.json").write_text(json.dumps({"model": {"base": str(base)}}))
    (tmp_path / "run" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Runs(marker)}))
    for config in ("{}", "[]", '{"layers_per_block": 1000000}'):
        (tmp_path / "run" / "config.json").write_text(config)
        with pytest.raises(ModelError, match="run"):
            load_pipeline(tmp_path / "run", device="cpu")
    assert not marker.exists()


def test_a_checkpoint_of_others_is_read_as_tensors(base: Path, marker: Path, tmp_path: Path) -> None:
    """Whatever its files hold, an optimizer that would run code among it: an error that names the checkpoint."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    controlnet = ControlNetModel.from_unet(unet)
    checkpoint = tmp_path / "00000001"
    for name in ("raw", "ema"):
        controlnet.save_pretrained(checkpoint / name)
    torch.save({}, checkpoint / "optimizer.bin")
    assert read_state(checkpoint, controlnet).optimizer == {}
    for name, data in (
        ("optimizer.bin", pickle.dumps(Runs(marker))),
        ("ema/diffusion_pytorch_model.safetensors", b"\xff" * 16),
        ("raw/diffusion_pytorch_model.safetensors", b""),
    ):
        (checkpoint / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=r"checkpoint .*00000001 cannot be read"):
            read_state(checkpoint, controlnet)
    assert not marker.exists()


def test_links_of_a_base_are_read_and_nothing_else(base: Path, tmp_path: Path) -> None:
    """Files of a model may be links, as in the Hub's cache; one that leads to no model is refused in words."""
    config = base / "unet" / "config.json"
    shutil.move(config, tmp_path / "kept.json")
    config.symlink_to(tmp_path / "kept.json")
    assert read_part(UNet2DConditionModel, base, "unet", safetensors=True) is not None
    for target in ("/etc/passwd", "/dev/zero", base / "unet" / "config.json"):
        config.unlink()
        config.symlink_to(target)
        with pytest.raises(ModelError):
            read_part(UNet2DConditionModel, base, "unet", safetensors=True)


@pytest.mark.parametrize("name", ["os.system", "../../etc", "a/b/c", "__import__('os')", "", "~/.ssh", "a\0b"])
def test_a_name_of_a_model_is_a_folder_or_a_name_on_the_hub(name: str) -> None:
    """Nothing is evaluated, and no path that leads nowhere is asked of the Hub."""
    with pytest.raises(ModelError, match=r"there is no folder|cannot be loaded"):
        read_model(ControlNetModel, name, safetensors=True)


# recipes

RECIPES = {
    "deep": b"a = " + b"[" * 100_000,
    "deep tables": b"train.lr" + b".a" * 2_900 + b" = 1",
    "dotted": b"a" + b".a" * 300_000 + b" = 1",
    "a number of digits": b"[train]\nsteps = 1" + b"0" * 100_000,
    "a number of hexadecimal digits": b"[train]\nsteps = 0x1" + b"0" * 100_000,
    "no number": b"[train]\nlr = nan",
    "an endless number": b"[train]\nlr = inf",
    "a long string": b'[train]\nlr = "' + b"x" * 900_000 + b'"',
    "too large": b"#" * (LARGEST + 1),
    "no text": bytes(range(256)),
    "a zero in a path": b'[save]\ndir = "a\\u0000b"',
    "a list for a path": b'[data]\npath = ["a"]',
    "a table for a model": b'[model.base]\nauto_map = "x"',
    "a key of code": b'[model]\nauto_map = "x"\ntrust_remote_code = true',
    "a yaml bomb": b"a: &a [x]\nb: &b [*a, *a]",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_none_ends_in_a_line(tmp_path: Path, name: str) -> None:
    """Nested, long or endless: refused, in a message that can be read."""
    path = tmp_path / "recipe.toml"
    path.write_bytes(RECIPES[name])
    with pytest.raises(RecipeError) as told:
        load_recipe(path)
    assert len(str(told.value)) < 3000


def test_a_recipe_writes_into_no_folder_of_others(tmp_path: Path) -> None:
    """save.dir at somebody's files, at a file, and at a folder of a run with a link in it: refused, and left as it is."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("precious")
    (tmp_path / "away").symlink_to(tmp_path / "home")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "home")
    for place in ("home", "away", "home/precious", "run"):
        with pytest.raises(CondprepError), own(tmp_path / place):
            pass
    with pytest.raises(CheckpointError):
        check_folder(tmp_path / "away")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["precious"]
