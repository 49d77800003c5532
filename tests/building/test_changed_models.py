"""A model in a user's folder that changes meanwhile: its weights or the settings that its maps depend on are never mixed unseen."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data
from support import tiny_models
from support.datasets import OFFLINE
from support.thorough import slow_ones

from condprep import Session, annotate, build
from condprep.annotation import session
from condprep.building.options import parse_options
from condprep.errors import AnnotatorError, DatasetError, UsageError
from condprep.runtime.once import OncePerProcess
from condprep.runtime.progress import Progress

HOW: dict[str, Any] = {"fit": "keep", "weights": OFFLINE, "device": "cpu"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_models.dpt(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four pictures."""
    (tmp_path / "raw").mkdir()
    for number in range(4):
        Image.fromarray(data.astronaut()[number : 40 + number, :50]).save(tmp_path / "raw" / f"{number}.png")
    return tmp_path / "raw"


def look_closer(model: Path) -> None:
    """Its pictures become twice as large: other maps of the same weights."""
    file = model / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"size": {"height": 64, "width": 64}}), encoding="utf-8")


def test_a_build_does_not_go_on_with_other_settings(model: Path, raw: Path, tmp_path: Path) -> None:
    """A build that was stopped is not finished with maps of another size of the network's pictures; as it was, it goes on."""

    def stop(state: Progress) -> None:
        if state.stage == "build" and state.done:
            raise KeyboardInterrupt

    before = (model / "preprocessor_config.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build(raw, tmp_path / "ds", f"depth:{model}", shard_rows=2, progress=stop, **HOW)
    look_closer(model)
    with pytest.raises(DatasetError, match=r"preprocessor_config\.json"):
        build(raw, tmp_path / "ds", f"depth:{model}", shard_rows=2, **HOW)
    (model / "preprocessor_config.json").write_bytes(before)
    assert build(raw, tmp_path / "ds", f"depth:{model}", shard_rows=2, **HOW).rows == {"train": 4}


@pytest.mark.slow
def test_what_is_on_record_is_the_same_settings(model: Path, raw: Path, tmp_path: Path) -> None:
    """`--like` refuses a folder whose settings are others; a record of before, which has weights alone, is taken at its word."""
    build(raw, tmp_path / "ds", f"depth:{model}", **HOW)
    again: dict[str, Any] = {"like": tmp_path / "ds", "weights": OFFLINE, "device": "cpu"}
    trusted = [f"depth:{model}"]
    assert annotate([raw / "0.png"], trust_annotators=trusted, **again)
    look_closer(model)
    with pytest.raises(AnnotatorError, match=r"was made with the weights .*preprocessor_config\.json"):
        annotate([raw / "0.png"], trust_annotators=trusted, **again)
    stored = tmp_path / "ds" / ".condprep" / "provenance.json"
    record = json.loads(stored.read_text(encoding="utf-8"))
    (one,) = record["annotators"]
    one["weights"] = {file: hashed for file, hashed in one["weights"].items() if file.endswith(".safetensors")}
    stored.write_text(json.dumps(record), encoding="utf-8")
    assert annotate([raw / "0.png"], trust_annotators=trusted, **again)


@pytest.mark.parametrize("kind", ["dpt", *slow_ones(["marigold"])])
def test_a_session_that_was_handed_over_has_the_same_files(
    kind: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that finds other weights or settings in the folder says so, also of a pipeline's inner folders."""
    getattr(tiny_models, kind)(tmp_path / kind)
    name = f"{'depth' if kind == 'dpt' else 'normal'}:{tmp_path / kind}"
    packed = pickle.dumps(Session(name, device="cpu", weights=OFFLINE))
    monkeypatch.setattr(session, "_sessions", OncePerProcess())  # as another process has them
    assert pickle.loads(packed)([raw / "0.png"])
    monkeypatch.setattr(session, "_sessions", OncePerProcess())
    inner = {"dpt": "preprocessor_config.json", "marigold": "scheduler/scheduler_config.json"}[kind]
    settings = json.loads((tmp_path / kind / inner).read_text(encoding="utf-8"))
    (tmp_path / kind / inner).write_text(json.dumps(settings | {"_changed": True}), encoding="utf-8")
    with pytest.raises(AnnotatorError, match="the session that was handed over has the weights"):
        pickle.loads(packed)([raw / "0.png"])


def test_two_models_never_share_a_column() -> None:
    """Names that would become one column are refused, and one's maps are not the other's."""
    assert len(set(parse_options(["depth:a/b", "depth:a/c"]).columns().values())) == 2
    with pytest.raises(UsageError, match=r"depth:a/b_c and depth:a_b/c would both be the column 'depth_a_b_c'"):
        parse_options(["depth:a/b_c", "depth:a_b/c"])
