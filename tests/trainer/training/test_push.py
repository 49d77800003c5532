"""save.push_to_hub: what is uploaded, what is not, and that neither a login nor the network costs a training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from diffusers import ControlNetModel
from huggingface_hub.utils import filter_repo_objects
from support.trainer_runs import make_place, make_recipe

from trainer.errors import MachineError
from trainer.recipe.recipe import Recipe
from trainer.training.train import train


class Hub:
    """Takes the place of HfApi: repositories are folders. The patterns are applied by the library's own function."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trouble = folder, ""

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, repository: str, exist_ok: bool = False) -> str:
        (self.folder / repository).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repository}"

    def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: list[str]) -> None:
        if self.trouble:
            raise ConnectionError(self.trouble)
        files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, ignore_patterns=ignore_patterns):
            target = self.folder / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder_path) / name, target)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("push"), rows=12)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Somebody is logged in."""
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    return made


def pushing(place: Path, out: Path, repository: str = "me/canny") -> Recipe:
    tables: dict[str, Any] = {
        "train": {"steps": 2, "batch": 4, "micro_batch": 4},
        "eval": {"every": 2, "samples": 1},
        "log": {"tracker": "tensorboard"},
        "save": {"every": 1, "push_to_hub": repository},
    }
    return make_recipe(place, out, **tables)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_result_is_pushed_and_nothing_else(place: Path, hub: Hub, tmp_path: Path) -> None:
    """Weights, cards, recipe and samples, which diffusers loads; no checkpoints, logs, or locks."""
    said: list[str] = []
    train(pushing(place, tmp_path / "output"), say=said.append)
    pushed = hub.folder / "me" / "canny"
    weights = {"config.json", "diffusion_pytorch_model.safetensors"}
    records = {"README.md", "condition.json", "training.json", "recipe.toml", "metrics.jsonl"}
    samples = {"samples/00000000.png", "samples/00000002.png"}
    assert names(pushed) == {f"{part}{name}" for part in ("", "raw/", "ema/") for name in weights} | records | samples
    assert {"checkpoints", "logs"} < {path.name for path in (tmp_path / "output").iterdir()}
    assert ControlNetModel.from_pretrained(pushed).config.in_channels == 4
    assert said[-1] == "pushed to https://hub/me/canny"


@pytest.mark.slow
def test_a_network_that_fails_costs_nothing(place: Path, hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    """The folder is complete, the message says how to push again, and that makes no further update."""
    out = tmp_path / "output"
    hub.trouble = "no route to host\nat line 3"
    with pytest.raises(MachineError, match=r"is complete.*: no route to host\. The same command pushes it again"):
        train(pushing(place, out))
    before = (out / "diffusion_pytorch_model.safetensors").read_bytes()
    assert ControlNetModel.from_pretrained(out).config.in_channels == 4
    hub.trouble = ""
    monkeypatch.setattr("trainer.training.step.Learner.step", lambda *_: pytest.fail("there is nothing left to learn"))
    assert train(pushing(place, out)).finished
    assert (hub.folder / "me/canny/diffusion_pytorch_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("wrong", ["login", "token", "name"])
def test_who_cannot_push_hears_it_before_training(
    wrong: str, place: Path, hub: Hub, tmp_path: Path, monkeypatch: Any
) -> None:
    """No login, a token that the Hub refuses, and a name that cannot be: nothing is loaded, no folder is made."""

    def refuse() -> None:
        raise ConnectionError("401 Invalid user token")

    if wrong == "login":
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    if wrong == "token":
        monkeypatch.setattr(hub, "whoami", refuse)
    said = {"login": "nobody is logged in", "token": "401 Invalid user token", "name": "Repo id must"}[wrong]
    recipe = pushing(place, tmp_path / "output", "me/my/canny" if wrong == "name" else "me/canny")
    with pytest.raises(MachineError, match=f"save.push_to_hub = .*{said}.*hf auth login"):
        train(recipe)
    assert not (tmp_path / "output").exists()
