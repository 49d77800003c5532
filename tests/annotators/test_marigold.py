"""normal:OWNER/MODEL: the normals of diffusers' own pipeline, in batches, in ControlNet's colours."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.aux_models import batch, picture
from support.tiny_models import marigold

from condprep import load_annotator
from condprep.errors import AnnotatorError, Rejected, WeightsError
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]


def load(folder: Path) -> Any:
    weights = Weights(offline=True, say=lambda _: None)
    return load_annotator(f"normal:{folder}", params={"precision": "fp32"}, weights=weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Marigold, which looks at 32 pixels of a picture's long side, in two steps."""
    return marigold(tmp_path_factory.mktemp("marigold"))


@pytest.fixture(scope="module")
def annotator(folder: Path) -> Any:
    return load(folder)


def test_the_normals_are_the_pipeline_s(folder: Path, annotator: Any) -> None:
    """Each picture of a batch has what the pipeline makes of it alone from the same noise, with x turned to the left."""
    from diffusers import MarigoldNormalsPipeline

    pipe = MarigoldNormalsPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    rgb = [picture(40, 64), np.ascontiguousarray(picture(40, 64)[::-1])]
    maps = annotator(batch(*rgb), KEYS[:2]).maps
    for number, one in enumerate(rgb):
        noise = annotator._noise(40, 64, KEYS[number : number + 1])
        found = pipe(Image.fromarray(one), latents=noise).prediction[0]
        expected = ((found * (-1, 1, 1)) * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
        assert expected.std() > 5, "flat normals would equal any"
        assert np.abs(maps[number].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_any_size_in_any_batch(annotator: Any) -> None:
    """Off the grid, in batches of 1, 3 and 8: the same maps within a level; 1 x 1 has one; noise is the key's alone."""
    pictures = batch(*(np.roll(picture(37, 50), 7 * n, axis=1) for n in range(8)))
    whole = annotator(pictures, KEYS).maps
    assert whole.shape == (8, 3, 37, 50)
    for size in (1, 3):
        parts = torch.cat(
            [annotator(part, KEYS[n * size :][: len(part)]).maps for n, part in enumerate(pictures.split(size))]
        )
        assert (parts.int() - whole.int()).abs().max() <= 1
    assert annotator(batch(picture(1, 1)), KEYS[:1]).maps.shape == (1, 3, 1, 1)
    assert not torch.equal(annotator(pictures[:1], KEYS[1:2]).maps, whole[:1])


def test_a_picture_without_a_short_side_is_rejected(annotator: Any) -> None:
    """Where the short side would be less than a pixel at the model's size, the picture is a reject that says so."""
    with pytest.raises(Rejected, match="sees 32 px of the long side; 100 x 1 has no short one there"):
        annotator(batch(picture(1, 100)), KEYS[:1])


def test_another_pipeline_is_refused(folder: Path, tmp_path: Path) -> None:
    """A text-to-image model, which has the same parts, and a folder of nothing: both are named."""
    with pytest.raises(WeightsError, match="its UNet does not look at a picture"):
        load(marigold(tmp_path / "other", looks=False))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(WeightsError, match=r"is no model of normals .*one of diffusers .* needs model_index\.json"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("part", ["unet", "_class_name"])
def test_code_of_a_repository_is_never_run(folder: Path, tmp_path: Path, part: str) -> None:
    """A model one of whose parts, or whose pipeline, is code of its own is refused by name, and the code is not imported."""
    own = shutil.copytree(folder, tmp_path / "own")
    for place in (own, own / "unet"):
        (place / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    index = json.loads((own / "model_index.json").read_text(encoding="utf-8"))
    (own / "model_index.json").write_text(json.dumps({**index, part: ["code", "Own"]}), encoding="utf-8")
    with pytest.raises(WeightsError, match="trust_remote_code"):
        load(own)
    assert not (tmp_path / "ran").exists()


def test_the_record_has_every_file(folder: Path, annotator: Any) -> None:
    """The sha256 of the files of all parts, the steps, and the licence to be looked up."""
    made = annotator.provenance
    assert made["weights"].keys() >= {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert made["parameters"] == {"precision": "fp32", "steps": 2}
    assert made["commercial"] is False


def test_on_a_cpu_it_computes_in_fp32(folder: Path) -> None:
    """Also on one that computes in bf16, in which torch cannot resize there; asked for another precision it says so."""
    weights = Weights(offline=True, say=lambda _: None)
    loaded = load_annotator(f"normal:{folder}", weights=weights)
    assert loaded.provenance["parameters"]["precision"] == "fp32"
    assert loaded(batch(picture(64, 40)), KEYS[:1]).maps.shape == (1, 3, 64, 40)
    with pytest.raises(AnnotatorError, match="computes in fp32 on a CPU, not in bf16; leave precision out"):
        load_annotator(f"normal:{folder}", params={"precision": "bf16"}, weights=weights)
