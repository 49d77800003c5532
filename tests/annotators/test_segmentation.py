"""segmentation:OWNER/MODEL: the classes of transformers' own post-processing, in batches, in the colours of ADE20K and COCO."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_models
from support.aux_models import batch, picture

from condprep import load_annotator
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.protocol import Annotator
from condprep.annotators.recorded import Recorded
from condprep.annotators.runner import Runner
from condprep.annotators.segmentation.annotator import SegmentationModel
from condprep.annotators.segmentation.palettes import colours
from condprep.building.options import parse_options
from condprep.errors import AnnotatorError, UsageError, WeightsError, WeightsUnavailable
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]
KINDS: dict[str, Callable[..., Path]] = {
    "segformer": tiny_models.segformer,
    "mask2former": tiny_models.mask2former,
    "oneformer": tiny_models.oneformer,
}
LABELS = {"segformer": tiny_models.ADE, "mask2former": tiny_models.COCO, "oneformer": tiny_models.ADE}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each kind."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, make in KINDS.items():
        make(made[kind], LABELS[kind])
    return made


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Annotator]:
    return {kind: load(folder) for kind, folder in folders.items()}


def load(folder: Path, said: list[str] | None = None, **params: Any) -> Annotator:
    weights = Weights(offline=True, say=[].append if said is None else said.append)
    return load_annotator(f"segmentation:{folder}", params=params, weights=weights)


def theirs(model: SegmentationModel, rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> classes (H, W), as the documents of transformers say: one picture, its processor, its post-processing."""
    told = {"task_inputs": ["semantic"]} if model.told else {}
    inputs = model.processor(images=Image.fromarray(rgb), return_tensors="pt", **told)
    with torch.inference_mode():
        answer = model.network(**inputs)
    found: np.ndarray = model.processor.post_process_semantic_segmentation(answer, target_sizes=[rgb.shape[:2]])[
        0
    ].numpy()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_are_those_of_transformers(kind: str, models: dict[str, Annotator]) -> None:
    """Two pictures at once, in colours: each pixel has the colour of the class that transformers finds in that picture alone."""
    annotator: Any = models[kind]
    rgb = [picture(64, 96), np.ascontiguousarray(picture(64, 96)[:, ::-1])]
    maps = annotator(batch(*rgb), KEYS[:2]).maps.permute(0, 2, 3, 1).numpy()
    painted = colours("ade20k" if LABELS[kind] is tiny_models.ADE else "coco", LABELS[kind])[1]
    for found, one in zip(maps, rgb, strict=True):
        expected = theirs(annotator.model, one)
        assert len(np.unique(expected)) > 1, "a flat map would equal anything"
        assert (found != painted[expected]).any(2).mean() <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_in_any_batch(kind: str, models: dict[str, Annotator]) -> None:
    """Sizes that no network takes, down to 1 x 1, in batches of 1, 3 and 8: maps of the picture's size, and the same ones."""
    annotator = models[kind]
    pictures = batch(*(np.roll(picture(37, 90), 7 * n, axis=1) for n in range(8)))
    whole = annotator(pictures, KEYS).maps
    assert whole.shape == (8, 3, 37, 90)
    for count, some in ((1, slice(0, 2)), (3, slice(2, 8))):  # each picture once
        parts = torch.cat([annotator(part, KEYS[: len(part)]).maps for part in pictures[some].split(count)])
        assert (parts != whole[some]).any(1).float().mean() <= 1e-3
    for size in ((1, 1), (1, 40)):
        assert annotator(batch(picture(*size), picture(*size)), KEYS[:2]).maps.shape == (2, 3, *size)


def test_what_is_padded_does_not_move_the_map() -> None:
    """An edge in the middle of the picture stays there though the network saw the picture in the corner of a larger one."""
    rows = (torch.arange(8) * 4 + 1.5 - 10).view(1, 1, 8, 1).expand(1, 1, 8, 8)  # above or below row 10 of 20
    answer = SimpleNamespace(masks_queries_logits=torch.cat((rows, -rows), 1))
    mask = torch.zeros(1, 32, 32, dtype=torch.int64)
    mask[:, :20] = 1
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 32), "pixel_mask": mask}
    model = SimpleNamespace(_filled={})
    cut = SegmentationModel._without_border(model, answer, inputs, (200, 320)).masks_queries_logits  # type: ignore[arg-type]
    above = torch.nn.functional.interpolate(cut, (200, 320), mode="bilinear")[0, 0, :, 0] < 0
    assert abs(int(above.sum()) - 100) <= 5
    assert above[:95].all()


def test_the_column_says_what_is_there(models: dict[str, Annotator]) -> None:
    """Ids and names as the model has them, the largest share first, all of the picture; what is drawn by threads is the same."""
    annotator, rgb = models["segformer"], batch(picture(64, 64), picture(128, 64)[64:])
    whole, drawn = annotator(rgb, KEYS[:2]), Runner(annotator)(rgb, KEYS[:2])
    for number, (pixels, columns) in zip(range(2), drawn, strict=True):
        listed = columns["segmentation_classes"]
        assert np.array_equal(pixels, whole.maps[number].permute(1, 2, 0))
        assert listed == whole.columns["segmentation_classes"][number]
        shares = [one["share"] for one in listed]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert all(one["name"] == tiny_models.ADE[one["id"]] for one in listed)


def test_the_record_has_file_palette_and_licence(folders: dict[str, Path], models: dict[str, Annotator]) -> None:
    """The sha256 of its weights and of its settings, the card's licence and whether it is for commerce; without a card the licence is to be looked up."""
    made = models["segformer"].provenance
    file = folders["segformer"] / "model.safetensors"
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    assert made["weights"] == {name: sha256((file.parent / name).read_bytes()).hexdigest() for name in names}
    assert made["parameters"] == {"precision": "fp32", "palette": "ade20k"}
    assert (made["licence"], made["commercial"]) == ("apache-2.0", True)
    other = models["mask2former"].provenance
    assert (other["licence"], other["commercial"]) == (f"see {folders['mask2former']}", False)
    assert kind_of_annotator("segmentation", str(file.parent)) == "segmentation"


@pytest.mark.parametrize(("licence", "commercial"), [("cc-by-nc-4.0", False), ("mit", True), ("[a, b]", False)])
def test_licences_of_cards(licence: str, commercial: bool, folders: dict[str, Path]) -> None:
    """One that forbids commerce is not taken for one that allows it, and what is no licence for none."""
    card = folders["segformer"] / "README.md"
    before = card.read_text(encoding="utf-8")
    card.write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")
    try:
        assert load(folders["segformer"]).provenance["commercial"] is commercial
    finally:
        card.write_text(before, encoding="utf-8")


def test_classes_without_a_palette(tmp_path: Path) -> None:
    """A model of 5 classes is painted by a rule, which is said and recorded; ADE20K's 150 colours are refused for it."""
    said: list[str] = []
    annotator = load(tiny_models.segformer(tmp_path, {n: f"c{n}" for n in range(5)}), said)
    assert annotator.provenance["parameters"]["palette"] == "voc"
    assert any("has 5 classes, neither ADE20K's 150 nor COCO's 133" in line for line in said)
    colour = {tuple(one) for one in annotator(batch(picture(40, 50)), KEYS[:1]).maps[0].flatten(1).T.tolist()}
    assert colour <= {(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)}
    with pytest.raises(
        AnnotatorError, match=r"segmentation\.palette = 'ade20k' has 150 colours and the model 5 classes"
    ):
        load(tmp_path, palette="ade20k")


@pytest.mark.parametrize(("name", "params"), [("segmentation", {"palette": "voc"}), ("mask", {"precision": "bf16"})])
def test_what_has_no_plain_variant_takes_parameters(name: str, params: dict[str, str]) -> None:
    """`--set segmentation.palette=voc` is for segmentation:OWNER/MODEL, whichever model it is; of nobody else."""
    assert parse_options(f"{name}:owner/model", {name: params}).params == {name: params}
    with pytest.raises(UsageError, match=f"parameters for '{name}', which is not among the annotators canny"):
        parse_options("canny", {name: params})


def test_palettes_are_those_of_the_references() -> None:
    """ADE20K's is controlnet_aux's; COCO's has 133 different colours, and people are crimson."""
    from controlnet_aux.util import ade_palette

    assert colours("auto", tiny_models.ADE)[1].tolist() == ade_palette()
    name, coco = colours("auto", tiny_models.COCO)
    assert (name, coco[0].tolist(), len(np.unique(coco, axis=0))) == ("coco", [220, 20, 60], 133)
    assert len(np.unique(colours("voc", dict.fromkeys(range(300), ""))[1], axis=0)) == 300
    with pytest.raises(AnnotatorError, match="of 0 classes"):
        colours("auto", {})


@pytest.mark.parametrize("door", ["segmentation", "depth", "mask"])
def test_code_of_a_repository_is_never_run(door: str, tmp_path: Path) -> None:
    """A model that wants `trust_remote_code` is refused by name, and its code is not imported."""
    with pytest.raises(WeightsError, match=rf"{door}:.* needs code of its repository \(trust_remote_code\)"):
        load_annotator(f"{door}:{tiny_models.foreign(tmp_path)}", weights=Weights(offline=True))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_such_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    """A folder without a model, a damaged file, and a pickle in its place: each is named, and nothing is unpickled."""
    with pytest.raises(WeightsError, match=rf"{tmp_path.name} is no semantic or panoptic segmentation model"):
        load(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folders["segformer"] / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="safetensors"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match=tmp_path.name):
        load(tmp_path)


def test_a_model_is_named_with_its_door() -> None:
    """`segmentation` alone says what to add; one that cannot be had says how; a record's model needs trust."""
    with pytest.raises(AnnotatorError, match="'segmentation' needs a variant: segmentation:OWNER/MODEL, a semantic"):
        load_annotator("segmentation")
    with pytest.raises(WeightsUnavailable, match=r"hf download nobody/nothing --local-dir DIR"):
        load_annotator("segmentation:nobody/nothing@v1", weights=Weights(offline=True, say=lambda _: None))
    record = {"annotator": "segmentation", "variant": "nobody/nothing", "params": {}, "weights": {}}
    with pytest.raises(AnnotatorError, match="--trust-annotator segmentation:nobody/nothing"):
        Recorded.of("a dataset", record).load(trust=(), device="cpu", weights=None)


@pytest.mark.parametrize("labels", [{0: "Background", 1: "hat", 2: "coat"}, {0: "something"}])
def test_a_mask_is_what_is_no_background(labels: dict[int, str], tmp_path: Path) -> None:
    """255 where transformers' own answer is another class than the background, or above 0 where there is one class alone."""
    folder = tiny_models.segformer(tmp_path, labels)
    annotator: Any = load_annotator(f"mask:{folder}", weights=Weights(offline=True, say=lambda _: None))
    rgb = [picture(64, 96), np.ascontiguousarray(picture(64, 96)[:, ::-1])]
    maps = annotator(batch(*rgb), KEYS[:2]).maps
    assert annotator.binary
    for found, one in zip(maps, rgb):
        inputs = annotator.model.processor(images=Image.fromarray(one), return_tensors="pt")
        with torch.inference_mode():
            logits = annotator.model.network(**inputs).logits
        logits = torch.nn.functional.interpolate(logits, (64, 96), mode="bilinear")[0]
        expected = logits[0] > 0 if len(labels) == 1 else logits.argmax(0) > 0
        assert 0 < expected.float().mean() < 1, "a flat mask would equal anything"
        assert ((found[0] == 255) != expected).float().mean() <= 1e-3
    assert annotator(batch(picture(1, 1)), KEYS[:1]).maps.shape == (1, 1, 1, 1)
    many = batch(*(np.roll(picture(37, 90), 7 * n, axis=1) for n in range(8)))
    whole = annotator(many, KEYS).maps
    for count in (1, 3):
        parts = torch.cat([annotator(part, KEYS[: len(part)]).maps for part in many.split(count)])
        assert (parts != whole).float().mean() <= 1e-3


def test_a_model_without_a_background_makes_no_mask(folders: dict[str, Path]) -> None:
    """ADE20K's first class is a wall: such a model is refused with its classes, and what to use instead."""
    with pytest.raises(
        AnnotatorError, match=r"knows no background: its 150 classes begin with wall, .*segmentation:.*shows them all"
    ):
        load_annotator(f"mask:{folders['segformer']}", weights=Weights(offline=True, say=lambda _: None))
