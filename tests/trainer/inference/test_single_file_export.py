"""One file for other programs: diffusers reads each back bit for bit, its header says what it is, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.docs import DOCS, section, tables, ticked
from support.trainer_models import FAMILIES, save_base
from typer.testing import CliRunner

from condprep.errors import UsageError
from trainer import export
from trainer.cli.main import app
from trainer.errors import MachineError, ModelError
from trainer.inference.export import save_result
from trainer.inference.header import architecture
from trainer.inference.original_names import PREFIX, original_names
from trainer.models.families import load_base
from trainer.recipe.recipe import Model

PROGRAMS = ("comfyui", "a1111", "single-file")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CONDITION = {
    "kind": "canny",
    "column": "canny",
    "annotators": [{"annotator": "canny", "variant": "", "parameters": {"low": 100}, "licence": "Apache-2.0"}],
    "geometry": {"resolution": 64, "fit": "bucket", "max_upscale": 2.0},
}


def save_run(folder: Path, family: str, **base: Any) -> Path:
    """What a run leaves, without a run: a ControlNet of which no two weights are equal."""
    loaded = load_base(Model(base=str(save_base(folder / f"base-{family}", family, **base))))
    torch.manual_seed(1)
    controlnet = loaded.new_controlnet("unet")
    weights = [torch.randn_like(weight) for weight in controlnet.parameters()]
    training = {
        "model": loaded.model.model_dump(mode="json"),
        "family": loaded.family,
        "prediction_type": loaded.prediction_type,
        "updates": 20,
        "batch": 4,
        "rows": 9,
        "dataset": "0" * 64,
        "metrics": {},
    }
    output = folder / f"run-{family}"
    output.mkdir()
    (output / "recipe.toml").write_text("")
    save_result(output, controlnet, weights, None, training, CONDITION)
    return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {family: save_run(folder, family) for family in FAMILIES}


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def of_sd15() -> ControlNetModel:
    """At the size that people train, of shapes alone."""
    with torch.device("meta"):
        return ControlNetModel(cross_attention_dim=768)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_every_file_back_bit_for_bit(
    runs: Mapping[str, Path], family: str, program: Any, tmp_path: Path
) -> None:
    """from_single_file, which knows both kinds of names by itself, gives the weights of the run, none more and none less."""
    out = export(runs[family], tmp_path / "one.safetensors", to=program, precision="fp32")
    read = ControlNetModel.from_single_file(str(out), config=str(runs[family]), local_files_only=True).state_dict()
    ours = load_file(runs[family] / "diffusion_pytorch_model.safetensors")
    assert read.keys() == ours.keys()
    assert all(read[name].equal(ours[name]) for name in ours)
    renamed = family != "sdxl" and program != "single-file"
    assert all(name.startswith(PREFIX) == renamed for name in load_file(out))


@pytest.mark.parametrize("precision", DTYPES)
def test_the_precision_is_that_of_the_file(runs: Mapping[str, Path], precision: Any, tmp_path: Path) -> None:
    """Each weight is the run's own, rounded to the nearest; fp16 is what is not asked for."""
    ours = load_file(runs["sd15"] / "diffusion_pytorch_model.safetensors")
    how = {} if precision == "fp16" else {"precision": precision}
    found = load_file(export(runs["sd15"], tmp_path / "a.safetensors", to="single-file", **how))
    assert found.keys() == ours.keys()
    assert all(found[name].equal(ours[name].to(DTYPES[precision])) for name in ours)


def test_the_header_says_what_it_is(runs: Mapping[str, Path], tmp_path: Path) -> None:
    """Every key that the specification demands, what was said, how conditions are made; never a path of this machine."""
    words = {"title": "Edges", "author": "Ann", "licence": "CC0-1.0"}
    out = export(runs["sd2"], tmp_path / "a.safetensors", to="a1111", **words)
    said = metadata(out)
    expected = {
        "sai_model_spec": "1.0.0",
        "architecture": "stable-diffusion-v2-768-v/controlnet",
        "implementation": "https://github.com/lllyasviel/ControlNet",
        "title": "Edges",
        "author": "Ann",
        "license": "CC0-1.0",
        "resolution": "64x64",
        "prediction_type": "v",
        "usage_hint": "takes canny maps",
        "description": "Trained on base-sd2 for 20 updates of 4 pictures",
    }
    assert expected.items() <= {name.removeprefix("modelspec."): value for name, value in said.items()}.items()
    assert said["format"] == "pt"
    assert json.loads(said["condprep.condition"]) == CONDITION
    assert str(tmp_path.parent) not in "".join(said.values())
    plain = metadata(export(runs["sdxl"], tmp_path / "b.safetensors", to="a1111"))
    assert plain["modelspec.title"] == "ControlNet for canny conditions"
    assert plain["modelspec.architecture"] == "stable-diffusion-xl-v1-base/controlnet"
    assert plain["modelspec.implementation"] == "diffusers"
    assert not {"modelspec.author", "modelspec.license"} & plain.keys()


def test_the_hash_is_that_of_the_files_tensors(runs: Mapping[str, Path], tmp_path: Path) -> None:
    """sha256 of all that lies behind the header, which is a length of eight bytes and so much JSON."""
    for precision in ("bf16", "fp32"):
        out = export(runs["sd15"], tmp_path / f"{precision}.safetensors", to="comfyui", precision=precision)
        content = out.read_bytes()
        tensors = content[8 + int.from_bytes(content[:8], "little") :]
        assert metadata(out)["modelspec.hash_sha256"] == f"0x{hashlib.sha256(tensors).hexdigest()}"


def test_the_same_run_gives_the_same_header(runs: Mapping[str, Path], tmp_path: Path) -> None:
    """The date is that of the weights, not that of the export."""
    first, second = (export(runs["sd15"], tmp_path / f"{n}.safetensors", to="a1111") for n in range(2))
    assert metadata(first) == metadata(second)
    assert first.stat().st_size == second.stat().st_size


def test_each_base_has_its_architecture() -> None:
    """SD 1.5 projects by convolutions, SD 2 by linear layers, and that of 768 pixels predicts velocity."""
    one, two = {"use_linear_projection": False}, {"use_linear_projection": True}
    assert architecture("sd", one, "epsilon") == "stable-diffusion-v1/controlnet"
    assert architecture("sd", two, "epsilon") == "stable-diffusion-v2-512/controlnet"
    assert architecture("sd", two, "v_prediction") == "stable-diffusion-v2-768-v/controlnet"


def test_no_two_weights_get_one_name() -> None:
    """Of a ControlNet of SD 1.5 at its size, each weight has a name of its own, and all blocks are counted without a gap."""
    controlnet = of_sd15()
    names = original_names(list(controlnet.state_dict()), controlnet.config)
    assert len(set(names.values())) == len(names) == len(controlnet.state_dict())
    for block, count in (("input_blocks", 12), ("zero_convs", 12), ("middle_block", 3)):
        found = {int(name.split(".")[2]) for name in names.values() if name.startswith(f"{PREFIX}{block}.")}
        assert found == set(range(count))


def test_the_page_has_every_name() -> None:
    """docs/export.md lists the modules of a ControlNet of SD 1.5 with both names, in order, none left out."""
    controlnet = of_sd15()
    names = original_names(list(controlnet.state_dict()), controlnet.config)
    modules = {name.rpartition(".")[0]: original.rpartition(".")[0] for name, original in names.items()}
    (table,) = tables(section(DOCS / "export.md", "## Name by name"))
    assert [tuple(ticked(cell)[0] for cell in row) for row in table] == list(modules.items())


def damaged(output: Path) -> None:
    weights = output / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def too_large(output: Path) -> None:
    path = output / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.bias": torch.full((16,), 1e6)}, path)


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        (damaged, {}, "cannot be read"),
        (too_large, {}, "conv_in.bias has values that fp16 cannot hold"),
        (lambda output: (output / "condition.json").unlink(), {}, "holds no result of the trainer"),
        (lambda output: (output / "config.json").unlink(), {}, "has no best weights"),
        (lambda output: None, {"weights": "ema"}, "has no ema weights"),
    ],
)
def test_what_cannot_be_exported_is_said(
    runs: Mapping[str, Path], tmp_path: Path, change: Callable[[Path], object], how: Any, message: str
) -> None:
    """Damaged weights, values beyond the precision, folders without a result: a sentence, and no file."""
    output = tmp_path / "run"
    shutil.copytree(runs["sd15"], output)
    change(output)
    with pytest.raises(ModelError, match=message):
        export(output, tmp_path / "a.safetensors", to="a1111", **how)
    assert not list(tmp_path.glob("a.safetensors*"))


def test_what_the_original_never_had_is_refused(tmp_path: Path) -> None:
    """A condition that is reduced four times: the programs have no such network; diffusers' own names remain."""
    output = save_run(tmp_path, "sd15", factor=4)
    with pytest.raises(ModelError, match=r'reduced 4 times.*for 8 times; say "single-file"'):
        export(output, tmp_path / "a.safetensors", to="comfyui")
    assert export(output, tmp_path / "a.safetensors", to="single-file").exists()
    with pytest.raises(ModelError, match="have none for up_blocks"):
        original_names(["up_blocks.0.conv.weight"], of_sd15().config)


def test_nothing_is_written_over(runs: Mapping[str, Path], tmp_path: Path) -> None:
    """A file that is there stays, unless it is said; the result itself, a folder and another kind of file never give way."""
    out = tmp_path / "a.safetensors"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists; choose another --out or say --overwrite"):
        export(runs["sd15"], out, to="a1111")
    assert out.read_text() == "mine"
    export(runs["sd15"], out, to="a1111", overwrite=True)
    assert load_file(out)
    weights = runs["sd15"] / "raw" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(UsageError, match="is the result itself"):
        export(runs["sd15"], weights, to="a1111", overwrite=True)
    assert weights.read_bytes() == before
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export(runs["sd15"], tmp_path / "folder.safetensors", to="a1111", overwrite=True)
    with pytest.raises(ModelError, match=r"is a \.safetensors file"):
        export(runs["sd15"], tmp_path / "a.ckpt", to="a1111")


def test_a_full_disk_is_said_before_a_byte_is_written(
    runs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is free and what it takes. A disk that fills up meanwhile leaves no file, either."""
    out = tmp_path / "a.safetensors"
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(MachineError, match=r"0\.0 MB free, and a\.safetensors takes"):
            export(runs["sd15"], out, to="a1111")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MachineError, match=r"could not be written: .*No space left on device"):
        export(runs["sd15"], out, to="a1111")
    assert not list(tmp_path.iterdir())


def test_the_command_exports(runs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m trainer export` prints the file's name: that of the run, in the working folder; an unknown program is named."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", str(runs["sd15"]), "--to", "a1111", "--title", "Edges"])
    assert (done.exit_code, done.output.strip()) == (0, "run-sd15.safetensors"), done.output
    assert metadata(tmp_path / "run-sd15.safetensors")["modelspec.title"] == "Edges"
    refused = CliRunner().invoke(app, ["export", str(runs["sd15"]), "--to", "paint"])
    assert refused.exit_code == 2
    assert "single-file" in refused.output


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no config": lambda run: (run / "config.json").write_text("{}"),
    "null config": lambda run: (run / "config.json").write_text("null"),
    "deep config": lambda run: (run / "config.json").write_text("[" * 100_000),
    "a number": lambda run: (run / "config.json").write_text("1" * 10_000),
    "layers": lambda run: (run / "config.json").write_text('{"conditioning_embedding_out_channels": 4}'),
    "family": lambda run: _change(run / "training.json", "family", ["sd15"]),
    "updates": lambda run: _change(run / "training.json", "updates", "many"),
    "geometry": lambda run: _change(run / "condition.json", "geometry", None),
    "a pipe": lambda run: (_weights(run).unlink(), os.mkfifo(_weights(run))),
    "a folder": lambda run: (_weights(run).unlink(), _weights(run).mkdir()),
    "nothing": lambda run: _weights(run).write_bytes(b""),
}


def _weights(run: Path) -> Path:
    return run / "raw" / "diffusion_pytorch_model.safetensors"


def _change(path: Path, name: str, value: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def test_damaged_records_of_others_end_in_words(runs: dict[str, Path], tmp_path: Path) -> None:
    """A run's folder that came from elsewhere: whatever its records and weights are, one line says that it is no result."""
    for number, (name, damage) in enumerate(DAMAGE.items()):
        run = shutil.copytree(runs["sd15"], tmp_path / str(number))
        damage(run)
        shutil.copyfile(run / "config.json", run / "raw" / "config.json")
        with pytest.raises(ModelError) as raised:
            export(run, tmp_path / "out.safetensors", to="comfyui", weights="raw")
        assert "\n" not in str(raised.value), name
        assert not (tmp_path / "out.safetensors").exists()
