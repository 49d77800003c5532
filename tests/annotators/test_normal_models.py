"""normal:OWNER/MODEL of transformers: its own postprocessing's normals, in batches, in ControlNet's colours."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.aux_models import batch, picture
from support.tiny_models import ADE, foreign, sapiens, segformer, tips

from condprep import load_annotator
from condprep.annotators.normals.estimated import turn
from condprep.errors import AnnotatorError, Rejected, WeightsError
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]
MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tips": (tips, "left-up-viewer"),
    "sapiens": (sapiens, "right-down-away"),
}


def load(folder: Path | str, **params: Any) -> Any:
    weights = Weights(offline=True, say=lambda _: None)
    return load_annotator(f"normal:{folder}", params={"precision": "fp32", **params}, weights=weights)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, (make, _) in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_normals_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    """Each picture of a batch has what transformers' own pre- and postprocessing make of it alone, as unit vectors turned."""
    import transformers

    axes = MODELS[name][1]
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name])
    model = transformers.AutoModelForNormalEstimation.from_pretrained(folders[name]).eval()
    rgb = [picture(40, 64), np.ascontiguousarray(picture(40, 64)[::-1])]
    maps = load(folders[name], axes=axes)(batch(*rgb), KEYS[:2]).maps
    for number, one in enumerate(rgb):
        sizes = {"source_sizes" if name == "sapiens" else "target_sizes": [(40, 64)]}
        with torch.inference_mode():
            answer = model(**processor(Image.fromarray(one), return_tensors="pt"))
            found = F.normalize(processor.post_process_normal_estimation(answer, **sizes)[0]["normals"], dim=0)
        turned = found * torch.tensor(turn(axes)).view(3, 1, 1)  # type: ignore[arg-type]
        expected = (turned * 127.5 + 127.5).clamp(0, 255).byte()
        assert expected.float().std() > 5, "flat normals would equal any"
        assert (maps[number].int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("name", MODELS)
def test_any_size_in_any_batch(folders: dict[str, Path], name: str) -> None:
    """Off the grid, in batches of 1, 3 and 8: the same maps within a level; 1 x 1 has one."""
    annotator = load(folders[name], axes=MODELS[name][1])
    pictures = batch(*(np.roll(picture(37, 50), 7 * n, axis=1) for n in range(8)))
    whole = annotator(pictures, KEYS).maps
    assert whole.shape == (8, 3, 37, 50)
    for size in (1, 3):
        parts = torch.cat([annotator(part, KEYS[: len(part)]).maps for part in pictures.split(size)])
        assert (parts.int() - whole.int()).abs().max() <= 1
    assert annotator(batch(picture(1, 1)), KEYS[:1]).maps.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("name", MODELS)
def test_in_bf16_the_normals_are_nearly_the_same(folders: dict[str, Path], name: str) -> None:
    """What auto is where a device computes in it: on average within two levels of fp32's, of random weights."""
    rgb = batch(picture(60, 50))
    exact, half = (
        load(folders[name], axes=MODELS[name][1], precision=how)(rgb, KEYS[:1]).maps.int() for how in ("fp32", "bf16")
    )
    assert 0 < (half - exact).abs().float().mean() < 2


@pytest.mark.slow
def test_what_it_needs_is_counted(folders: dict[str, Path]) -> None:
    """More for a larger picture, and the count ends where the map is."""
    from condprep.annotators.weighing import needed

    for name, (_, axes) in MODELS.items():
        annotator = load(folders[name], axes=axes)
        small, large = needed(annotator, 64, 64), needed(annotator, 1024, 1024)
        assert large > small + 3 * 4 * (1024**2 - 64**2)


def test_axes_become_left_up_and_towards_the_viewer() -> None:
    """OpenCV's camera (right, down, away) is turned around in all three; ControlNet's own stay."""
    assert turn("right-down-away") == (-1, -1, -1)
    assert turn("right-up-viewer") == (-1, 1, 1)
    assert turn("left-up-viewer") == (1, 1, 1)


def test_axes_that_are_not_known_are_asked_for(folders: dict[str, Path]) -> None:
    """Sapiens 2 without axes is refused by name, with what to say; TIPS 2 needs none, and what is used is recorded."""
    with pytest.raises(AnnotatorError, match=r"is a sapiens2, of which it is not known .* normal\.axes="):
        load(folders["sapiens"])
    assert load(folders["tips"]).provenance["parameters"] == {"precision": "fp32", "axes": "left-up-viewer"}
    with pytest.raises(AnnotatorError, match=r"normal\.axes has no meaning for normal:midas"):
        load("midas", axes="left-up-viewer")


def test_a_picture_without_a_short_side_is_rejected(folders: dict[str, Path]) -> None:
    """Where a model keeps the aspect and the short side would be less than a pixel, the picture is a reject that says so."""
    annotator = load(folders["sapiens"], axes="right-up-viewer")
    with pytest.raises(Rejected, match="sees 48 x 64 px; 200 x 1 has no short side there"):
        annotator(batch(picture(1, 200)), KEYS[:1])


def test_other_models_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A model of classes, one that brings code of its own, and a folder of nothing: each is named, and what is needed."""
    with pytest.raises(WeightsError, match=r"is no model of normals of transformers \(AutoModelForNormalEstimation"):
        load(segformer(tmp_path / "classes", ADE))
    with pytest.raises(WeightsError, match="trust_remote_code"):
        load(foreign(tmp_path / "foreign"))
    assert not (tmp_path / "foreign" / "ran").exists()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(WeightsError, match=r"is no model of normals of transformers .*model_index\.json"):
        load(tmp_path / "nothing")
