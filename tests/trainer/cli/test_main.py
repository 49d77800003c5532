"""`python -m trainer`: from a dataset of condprep to pictures, and every mistake a sentence."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from diffusers import ControlNetModel
from PIL import Image
from support.pictures import size_of
from support.trainer_models import build_dataset, save_base
from torch import Tensor

import condprep
import trainer
from trainer.cli import main as cli
from trainer.models.loss import row_losses
from trainer.models.objectives.diffusion import Diffusion
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import load_recipe
from trainer.training.folder import own
from trainer.training.loop import TrainingLoop
from trainer.training.step import Learner


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """A folder with a base, a dataset and a recipe."""
    root: Path = tmp_path_factory.mktemp("cli")
    base, dataset = save_base(root / "base"), build_dataset(root / "ds", 16)
    (root / "tiny.toml").write_text(
        f"""
        [model]
        base = "{base}"
        [data]
        path = "{dataset}"
        kind = "canny"
        resolution = 64
        num_workers = 0
        [train]
        steps = 4
        batch = 4
        micro_batch = 2
        warmup = 2
        precision = "fp32"
        device = "cpu"
        [eval]
        every = 2
        samples = 1
        sampler_steps = 2
        [log]
        every = 2
        tracker = "none"
        [save]
        every = 2
        """
    )
    return root


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["trainer", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def own_functions(frame: FrameType | None) -> list[CodeType]:
    """Functions of condprep and trainer that are being carried out, the outermost first."""
    folders = tuple(str(Path(package.__file__ or "").parent) for package in (condprep, trainer))
    codes = [frame.f_code for frame, _ in traceback.walk_stack(frame)]
    return [code for code in reversed(codes) if code.co_filename.startswith(folders)]


@pytest.mark.slow
def test_from_the_command_to_the_loss_are_seven_calls(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`python -m trainer` reaches the loss of a batch by at most seven frames of our own, `__main__` and the loss among them."""
    stacks, add_noise = [], Diffusion.add_noise

    def seen(*given: Any) -> Tensor:  # called by the loss function alone
        stacks.append(own_functions(sys._getframe()))
        return add_noise(*given)

    monkeypatch.setattr(Diffusion, "add_noise", seen)
    monkeypatch.setattr(sys, "argv", ["trainer", str(made / "tiny.toml"), "--set", f"save.dir={tmp_path / 'output'}"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("trainer", run_name="__main__")
    assert not stop.value.code
    updates = [stack for stack in stacks if TrainingLoop.run.__code__ in stack and Learner.step.__code__ in stack]
    assert len(updates) == 8  # 4 updates of 2 passes
    assert all(stack[-1] is row_losses.__code__ for stack in updates)
    assert max(map(len, updates)) <= 7, [code.co_qualname for code in updates[0]]


@pytest.mark.slow
def test_from_a_dataset_to_a_picture(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    """A recipe trains, the result is a ControlNet of diffusers, and `sample` draws with it."""
    output = tmp_path / "output"
    code, shown, _ = run(monkeypatch, capsys, made / "tiny.toml", "--set", f"save.dir={output}", "--json")
    assert code == 0
    assert json.loads(shown)["updates"] == 4
    assert isinstance(ControlNetModel.from_pretrained(output), ControlNetModel)
    assert load_recipe(output / "recipe.toml") == load_recipe(made / "tiny.toml", [f"save.dir={output}"])
    Image.new("L", (64, 64), 255).save(tmp_path / "map.png")
    words = [
        "--condition",
        tmp_path / "map.png",
        "--prompt",
        "a red disc",
        "--steps",
        2,
        "--out",
        tmp_path / "made.png",
    ]
    code, _, said = run(monkeypatch, capsys, "sample", output, *words)
    assert (code, "the condition looks like blank, but this ControlNet was trained on canny\n" in said) == (0, True)
    assert size_of(tmp_path / "made.png") == (64, 64)


def test_a_picture_never_takes_the_place_of_its_condition(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """`sample --overwrite` replaces a picture, not the map that it follows, by whatever name this is called."""
    Image.new("L", (64, 64), 255).save(tmp_path / "map.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "map.png")
    words = ("--condition", tmp_path / "map.png", "--prompt", "a disc", "--out", tmp_path / "link.png", "--overwrite")
    code, _, said = run(monkeypatch, capsys, "sample", tmp_path, *words)
    assert (code, "link.png is the condition itself; choose another --out" in said) == (2, True)


@pytest.mark.slow
def test_a_dry_run_trains_nothing(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    """The plan is printed, for people and as JSON; no output folder and no latents are made."""
    settings = ["--set", f"save.dir={tmp_path / 'output'}", "--set", f"cache.dir={tmp_path / 'cache'}"]
    code, shown, _ = run(monkeypatch, capsys, made / "tiny.toml", *settings, "--dry-run", "--json")
    plan = json.loads(shown)
    assert code == 0
    assert (plan["updates"], plan["batch"], plan["kind"]) == (4, 4, "canny")
    assert plan["buckets"] == {"64x64": plan["rows"]}
    code, shown, _ = run(monkeypatch, capsys, "--dry-run", made / "tiny.toml", *settings)
    assert f"64 x 64 px: {plan['rows']} rows" in shown
    assert not (tmp_path / "output").exists()
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_dry_run_finds_what_the_run_would_refuse(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """A folder of other things and a checkpoint that is not there end it; a warm-up that never ends and far sizes are said."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("of somebody else")
    common = (made / "tiny.toml", "--dry-run", "--set", f"cache.dir={tmp_path / 'cache'}", "--set")
    code, _, said = run(monkeypatch, capsys, *common, f"save.dir={tmp_path / 'output'}")
    assert (code, "holds no run of the trainer; choose another one" in said) == (2, True)
    new = f"save.dir={tmp_path / 'new'}"
    code, _, said = run(monkeypatch, capsys, *common, new, "--resume", tmp_path / "no")
    assert (code, str(tmp_path / "no") in said) == (2, True)
    code, shown, _ = run(
        monkeypatch, capsys, *common, new, "--set", "train.warmup=4", "--set", "data.resolution=512", "--json"
    )
    notes = json.loads(shown)["notes"]
    assert any("train.warmup = 4 is not shorter than the run of 4 updates" in note for note in notes)
    assert any("enlarged 8 times or more" in note and "--resolution 512 --fit bucket" in note for note in notes)
    assert (code, (tmp_path / "new").exists()) == (0, False)


def test_a_dry_run_tries_the_disk_the_folder_and_what_validation_needs(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """A full disk, a run that is going on there, and a condition's file that cannot be read: each refused, and nothing written."""
    recipe = (made / "tiny.toml", "--dry-run", "--set", f"cache.dir={made / 'dry'}", "--set")
    for change, said in (
        ("eval.conditions=['no.png']", "no.png"),
        (f"save.dir={tmp_path / 'used'}", "another run is using save.dir"),
        ("save.keep=1000000000", "make room, lower save.keep"),
    ):
        where = () if change.startswith("save.dir") else ("--set", f"save.dir={tmp_path / 'new'}")
        prompts = ("--set", "eval.prompts=['a disc']") if "conditions" in change else ()
        with own(tmp_path / "used"):
            code, _, shown = run(monkeypatch, capsys, *recipe, change, *where, *prompts)
        assert code != 0
        assert said in shown
        assert not (tmp_path / "new").exists()


def test_a_recipe_can_be_printed(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    """`--print-recipe` writes every default, with what was set; it is a recipe again."""
    code, shown, _ = run(
        monkeypatch,
        capsys,
        "canny",
        "--set",
        "train.lr=2e-6",
        "--resume",
        "never",
        "--push-to-hub",
        "me/it",
        "--print-recipe",
    )
    (tmp_path / "again.toml").write_text(shown)
    again = load_recipe(tmp_path / "again.toml")
    assert code == 0
    assert (again.train.lr, again.save.resume, again.save.push_to_hub) == (2e-6, "never", "me/it")
    assert again.model == Recipe().model


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cany"], "there is no recipe 'cany'"),
        (["canny", "--set", "train.lrr=1"], "unknown key train.lrr; did you mean train.lr?"),
        (["sample", "nothing", "--condition", "x", "--prompt", "x", "-o", "x.tiff"], "x.tiff: a picture is a .png"),
        (["canny", "--set", "train.lr"], "not of the form table.key=value"),
        (["canny", "--set", "data.path=/nowhere", "--dry-run"], "there is no file or folder '/nowhere'"),
        (["TINY", "--set", "model.base=/nowhere", "--dry-run"], "model.base '/nowhere': there is no such folder"),
        (["TINY", "--set", "model.family=sdxl"], 'is of family "sd", and model.family = "sdxl"'),
        (["TINY", "--set", "data.kind=pose"], 'data.kind = "pose", but the conditions'),
        (["TINY", "--set", "data.split=test"], "no split 'test'"),
        (["TINY", "--set", "train.batch=64"], "fewer than train.batch = 64"),
        (["TINY", "--set", "train.device=cuda"], 'train.device = "cuda"'),
        (["TINY", "--set", "train.precision=fp16"], 'train.precision = "fp16" needs a GPU'),
    ],
)
def test_a_mistake_is_a_sentence(
    arguments: list[str], said: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """Exit code 2, one message, no stack trace, nothing left behind."""
    monkeypatch.chdir(tmp_path)
    words = [word.replace("TINY", str(made / "tiny.toml")) for word in arguments]
    code, _, shown = run(monkeypatch, capsys, *words)
    assert code == 2
    assert said in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "output").exists()


def test_help_needs_no_torch(tmp_path: Path) -> None:
    """`--help` and `import trainer` import nothing heavy."""
    look = (
        "import sys, trainer, trainer.cli.main\n"
        "sys.argv = ['trainer', '--help']\n"
        "try: trainer.cli.main.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'diffusers', 'datasets', 'pydantic', 'cv2', 'scipy', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("program", "usage", "noted"),
    [("/usr/bin/condprep-train", "condprep-train", True), ("/lib/trainer/__main__.py", "python -m trainer", False)],
)
def test_a_script_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, program: str, usage: str, noted: bool
) -> None:
    """`condprep-train` is the same command, and says where a user's trainer.py would be run by `python -m trainer`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer.py").touch()
    monkeypatch.setattr(sys, "argv", [program, "-h"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    assert stop.value.code == 0
    assert f"Usage: {usage} " in shown.out
    assert ("trainer.py in this folder is what" in shown.err) == noted
