"""CLIP score and KID: what others' implementations give, from files that lie here, and never from the network unasked."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.painters import HOW, NOTHING, Painter
from support.trainer_models import make_tokenizer
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from condprep.annotators.registry import load_annotator
from condprep.errors import UsageError, WeightsError
from condprep.images.decode import Pixels
from trainer.errors import ModelError
from trainer.evaluation import networks
from trainer.evaluation.examples import Example
from trainer.evaluation.networks import CLIP, INCEPTION, LEAST, Clip, Kid, Networks, at_hand, read_inception
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.report import write_report
from trainer.evaluation.result import conclude
from trainer.evaluation.trial import Trial


def save_clip(folder: Path) -> Path:
    """A CLIP model with random weights, and its processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = make_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = sizes | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    shape = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=shape, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(number: int, seed: int = 0, light: float = 128) -> list[Pixels]:
    """Soft noise around a grey, (48, 64, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(light, 40, (number, 6, 8, 3)).clip(0, 255).astype(np.uint8)
    return [np.array(Image.fromarray(one).resize((64, 48), Image.Resampling.BICUBIC)) for one in coarse]


class Means(nn.Module):
    """Features for KID: the means of blocks of 16 x 16 pixels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pixels.double() / 255 - 0.5, 16).flatten(1)


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caches of the Hub and of torch are in this folder, and whoever asks the network fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


@pytest.mark.parametrize("turned", [False, True])
def test_clip_score_is_that_of_torchmetrics(clip_folder: Path, turned: bool) -> None:
    """The same score for the same picture and caption; 0 for a model whose captions are turned to the opposite side."""
    from torchmetrics.functional.multimodal import clip_score

    ours = Clip(str(clip_folder), "cpu")
    if turned:
        ours.model.text_projection.weight.neg_()
    theirs = SimpleNamespace(  # as the models of transformers 4: their features are tensors
        to=lambda _: theirs,
        config=ours.model.config,
        get_image_features=lambda *given: ours.model.get_image_features(*given).pooler_output,
        get_text_features=lambda *given: ours.model.get_text_features(*given).pooler_output,
    )
    found, expected = [], []
    for picture, caption in zip(pictures(8), ("red", "a green disc", "box", "z", "ww", "y x", "blue", "q")):
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        found.append(ours(picture, caption))
        expected.append(float(clip_score(pixels, caption, lambda: (theirs, ours.processor))))
    assert found == pytest.approx(expected, abs=1e-3)
    assert max(found) == 0 if turned else min(found) > 1


def test_long_captions_are_cut(clip_folder: Path) -> None:
    """More words than the model reads change nothing."""
    ours = Clip(str(clip_folder), "cpu")
    (picture,) = pictures(1)
    assert ours(picture, "a b c d " * 20) == ours(picture, "a b c d " * 40)


def mmd(real: list[Pixels], made: list[Pixels]) -> float:
    """KID x 1000 of whole sets by its definition: the unbiased squared MMD of the kernel (x.y / d + 1)^3."""
    features = [Means()(torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2)).numpy() for some in (real, made)]
    a, b = ((one @ other.T / one.shape[1] + 1) ** 3 for one, other in ((features[0],) * 2, (features[1],) * 2))
    across = (features[0] @ features[1].T / features[0].shape[1] + 1) ** 3
    n = len(real)
    within = [(kernel.sum() - np.trace(kernel)) / (n * (n - 1)) for kernel in (a, b)]
    return float(1000 * (sum(within) - 2 * across.mean()))


def test_kid_is_its_definition() -> None:
    """The mean over random halves is that of the whole sets, as an unbiased estimate's is, within its own scatter."""
    real, made = pictures(40, 0), pictures(40, 1, light=150)
    found = Kid(Means())(real, made, seed=0)
    assert found.mean == pytest.approx(mmd(real, made), abs=(found.high - found.low) / 10)
    assert found.rows == 40
    assert found == Kid(Means())(real, made, seed=0) != Kid(Means())(real, made, seed=1)


def test_kid_tells_sets_apart() -> None:
    """Two sets of one kind are not told apart, darker pictures are, and the darker the more."""
    real = pictures(60, 0)
    same, darker, black = (Kid(Means())(real, pictures(60, 9, light), 0) for light in (128, 100, 60))
    assert same.low < 0 < same.high
    assert 0 < darker.low < darker.high < black.low


@pytest.mark.slow
def test_the_interval_of_kid_is_that_of_sets_drawn_anew() -> None:
    """Its width is the scatter of KID over fresh pictures, within a third."""
    fresh = [mmd(pictures(30, 2 * n), pictures(30, 2 * n + 1, light=110)) for n in range(60)]
    found = [Kid(Means())(pictures(30, 2 * n), pictures(30, 2 * n + 1, light=110), n) for n in range(8)]
    claimed = np.mean([(one.high - one.low) / (2 * 1.96) for one in found])
    assert claimed == pytest.approx(np.std(fresh), rel=1 / 3)


def test_kid_leaves_the_random_numbers_of_others_alone() -> None:
    """Nobody's noise depends on whether KID was measured."""
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    Kid(Means())(pictures(6), pictures(6, 1), 0)
    assert torch.rand(1) == before


def test_too_few_pictures_have_no_kid() -> None:
    """Below `LEAST` there are no halves: no value, and no error."""
    few = Kid(Means())(pictures(LEAST - 1), pictures(LEAST - 1, 1), 0)
    assert few.rows == 0
    assert Kid(Means())(pictures(LEAST), pictures(LEAST, 1), 0).rows == LEAST


def test_nothing_is_downloaded_unasked(empty_caches: Path) -> None:
    """Without weights nothing is measured, and each reason names its option."""
    found = at_hand(None, None, "cpu")
    assert found.clip is found.kid is None
    assert [note for note in found.missing if "--clip" in note and CLIP in note]
    assert [note for note in found.missing if "--inception" in note and INCEPTION in note]


def test_what_is_cached_is_used(empty_caches: Path) -> None:
    """A CLIP model in the Hub's cache is found by itself; one that is cached in part is a reason, not an error."""
    folder = empty_caches / "hub" / f"models--{CLIP.replace('/', '--')}"
    save_clip(folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert at_hand(None, None, "cpu").clip is not None
    (folder / "snapshots" / "abc" / "model.safetensors").unlink()
    cut = at_hand(None, None, "cpu")
    assert cut.clip is None
    assert any("cannot be loaded" in note for note in cut.missing)


def test_what_is_asked_for_has_to_be_there(tmp_path: Path, empty_caches: Path) -> None:
    """A folder or file that is named and cannot be used is an error that names it."""
    with pytest.raises(ModelError, match="no-clip"):
        at_hand(str(tmp_path / "no-clip"), None, "cpu")
    half = save_clip(tmp_path / "half")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (half / name).unlink()
    with pytest.raises(ModelError, match="no processor"):
        at_hand(str(half), None, "cpu")
    with pytest.raises(UsageError, match=r"weights\.pth: there is no such file"):
        at_hand(None, tmp_path / "weights.pth", "cpu")


def test_another_file_is_not_inception(tmp_path: Path) -> None:
    """KID is a number of one network alone: any other file is refused by its sha256."""
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="sha256 is d9298a10"):
        read_inception(tmp_path / "other.pth", "cpu")


def named_by_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on this file is taken for Inception's."""
    digest = networks.sha256(path)
    monkeypatch.setattr(networks, "INCEPTION", f"weights-{digest[:8]}.pth")
    return path


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("harmed"),)


def test_weights_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle under Inception's name is refused, and what it would do is not done."""
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        read_inception(named_by_content(Path("evil.pth"), monkeypatch), "cpu")
    assert not Path("harmed").exists()


@pytest.mark.slow
def test_inception_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state dict in torch-fidelity's layout becomes a network of 2,048 features, and KID is measured with it."""
    pytest.importorskip("torch_fidelity")
    from torchmetrics.image.fid import NoTrainInceptionV3

    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patched:
        patched.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        state = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(tmp_path / "none.pth")).state_dict()
    torch.save({name: torch.randn_like(one.float()) * 0.05 for name, one in state.items()}, tmp_path / "random.pth")
    path = named_by_content(tmp_path / "random.pth", monkeypatch)
    network = read_inception(path, "cpu")
    assert network(torch.zeros(2, 3, 48, 64, dtype=torch.uint8)).shape == (2, 2048)
    found = at_hand(None, path, "cpu").kid
    assert found is not None
    assert found(pictures(LEAST), pictures(LEAST, 1), 0).rows == LEAST


@pytest.mark.slow
def test_an_evaluation_with_both(clip_folder: Path, tmp_path: Path) -> None:
    """CLIP scores for every arm with a caption of its own, row by row; KID for those with pictures of their own."""
    rows = [
        Example(str(n), "red disc"[: n + 2], picture, np.repeat(picture[..., :1], 3, axis=2))
        for n, picture in enumerate(pictures(6))
    ]
    known = {row.image.tobytes(): Image.fromarray(row.original) for row in rows}
    paint: Any = Painter(lambda condition, _: known[condition.tobytes()])
    both = Networks(Clip(str(clip_folder), "cpu"), Kid(Means()))
    trial = Trial(paint, Reannotator(load_annotator("canny")), "canny", HOW, networks=both)
    own, real = trial.generated("controlnet", rows), trial.real(rows)
    arms = [own, *trial.other_maps("other map", own), *trial.foreign(rows), real, trial.vae(rows)]
    arms += trial.other_maps("real, other map", real)
    found = conclude(trial, {arm.name: arm for arm in arms}, NOTHING, {}, 0.0)
    has = {name: {arm for arm, scores in found.scores.items() if name in scores} for name in ("clip", "kid")}
    assert has["clip"] == {"controlnet", "foreign condition", "real", "vae"}
    assert has["kid"] == {"controlnet", "foreign condition", "vae"}
    assert own.values("clip") == real.values("clip") == [both.clip(row.original, row.prompt) for row in rows]  # type: ignore[misc]
    assert not any("no CLIP" in note or "no KID" in note for note in found.notes)
    write_report(found, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["scores"]["vae"]["kid"]["rows"] == 6
    page = (tmp_path / "report" / "index.html").read_text()
    assert "CLIP score" in page
    assert "KID x 1000, lower is better" in page
