"""The adapter to controlnet_aux: its detectors' own maps, at the picture's own size, from files that cannot run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import condprep
from condprep.annotators import aux_adapter, aux_builders, load_annotator, specs
from condprep.annotators.aux_adapter import Aux
from condprep.annotators.aux_detectors import DETECTORS, LEFT_OUT
from condprep.errors import AnnotatorError, Rejected, WeightsError, WeightsUnavailable
from condprep.weights import Weights

KEYS = [hashlib.sha256(name).hexdigest() for name in (b"one", b"two", b"three")]
HEAVY = ["leres++", "zoe", "sam", "mobile_sam"]  # half a minute a picture: each has a test of its own
NETWORKS = [name for name, how in DETECTORS.items() if how.files and name not in HEAVY]
WEIGHTLESS = ["lineart_standard", "shuffle"]
SLOW = {"lineart_anime", "normalbae", "leres"}  # 54, 72 and 115 million parameters


@cache
def detectors() -> Any:
    """controlnet_aux, and from here on no warnings of it."""
    with aux_adapter._quiet():
        import controlnet_aux
    return controlnet_aux


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the pictures are too small to share


# --- weights: PiDiNet's own, random ones for the others -----------------------------------------------------------


def _lineart() -> Any:
    from controlnet_aux.lineart import Generator

    return Generator(3, 1, 3).state_dict()


def _anime() -> Any:
    from controlnet_aux.lineart_anime import UnetGenerator

    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return UnetGenerator(3, 1, 8, 64, norm_layer=norm).state_dict()


def _mlsd() -> Any:
    from controlnet_aux.mlsd.models.mbv2_mlsd_large import MobileV2_MLSD_Large

    return MobileV2_MLSD_Large().state_dict()


def _pidinet() -> Any:
    from controlnet_aux.pidi.model import pidinet

    return {"state_dict": {name: 2 * value for name, value in pidinet().state_dict().items()}}  # 2: not all 0.5


def _normalbae() -> Any:
    from controlnet_aux.normalbae.nets.NNET import NNET

    how = SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    return {"model": NNET(how).state_dict()}


def _ted() -> Any:
    from controlnet_aux.teed.ted import TED

    return TED().state_dict()


def _leres() -> Any:
    from controlnet_aux.leres.leres.multi_depth_model_woauxi import RelDepthModel

    # It was trained on several GPUs, which puts "module." before each name.
    return {
        "depth_model": {f"module.{name}": value for name, value in RelDepthModel("resnext101").state_dict().items()}
    }


def _merger() -> Any:
    from controlnet_aux.leres.pix2pix.models.networks import define_G

    return define_G(2, 1, 64, "unet_1024", "none").state_dict()


def _zoe() -> Any:
    from controlnet_aux import zoe

    return {"model": zoe.ZoeDepth.build_from_config(zoe.get_config("zoedepth", "infer")).state_dict()}


def _mobile_sam() -> Any:
    from controlnet_aux.segment_anything.build_sam import sam_model_registry

    state = sam_model_registry["vit_t"]().state_dict()
    return {
        name: torch.randn_like(value) if name.endswith("attention_biases") else value for name, value in state.items()
    }


MAKE: dict[str, Callable[[], Any]] = {
    "sk_model.pth": _lineart,
    "sk_model2.pth": _lineart,
    "netG.pth": _anime,
    "mlsd_large_512_fp32.pth": _mlsd,
    "table5_pidinet.pth": _pidinet,
    "scannet.pt": _normalbae,
    "MTEED.pth": _ted,
    "5_model.pth": _ted,
    "res101.pth": _leres,
    "latest_net_G.pth": _merger,
    "ZoeD_M12_N.pt": _zoe,
    "mobile_sam.pt": _mobile_sam,
}
BESIDE = {"leres": {"latest_net_G.pth"}}  # what the reference opens and does not use


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the weights of a variant: of its real network, with random values."""
    detectors()
    folder = tmp_path_factory.mktemp("weights")

    def made(variant: str) -> Path:
        wanted = {*DETECTORS[variant].weights, *BESIDE.get(variant, ())}
        for number, name in enumerate(MAKE):
            if name in wanted and not (folder / name).exists():
                torch.manual_seed(number)
                with aux_adapter._quiet():
                    torch.save(MAKE[name](), folder / name)
        return folder

    return made


@cache
def load(variant: str, folder: Path | None = None) -> Any:
    return load_annotator(f"aux:{variant}", weights=Weights(folder, offline=True, say=lambda _: None))


@cache
def reference(variant: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """controlnet_aux alone, as its users call it: picture (H, W, 3) -> map."""
    how = DETECTORS[variant]
    cls = getattr(detectors(), how.cls)
    kind = {"model_type": how.kind} if how.kind else {}
    with aux_adapter._quiet(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program"])  # LeReS takes the program's options for its own
        detector = cls.from_pretrained(str(folder), **how.files, **kind) if how.files else cls()
    if how.cls == "LeresDetector":
        detector.model.eval()  # as LeReS' own code does and this one forgets

    def call(picture: np.ndarray) -> np.ndarray:
        side = min(picture.shape[:2])
        known = {"image_resolution": side} if how.cls not in NO_IMAGE_RESOLUTION else {}
        return np.asarray(detector(Image.fromarray(picture), detect_resolution=side, **known, **how.options))

    return call


NO_IMAGE_RESOLUTION = {"AnylineDetector", "LineartStandardDetector", "TEEDdetector"}


def picture(height: int, width: int) -> np.ndarray:
    """A piece of a photograph, a face at its top."""
    photograph = np.tile(data.astronaut()[:, 130:], (2, 2, 1))
    return np.ascontiguousarray(photograph[:height, :width])


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def variants(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


# --- the same maps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", variants([*NETWORKS, "lineart_standard"]))
@pytest.mark.parametrize("cells", [(1, 1), (1, 2), (2, 1)])
def test_on_the_grid_the_map_is_the_reference_s(
    variant: str, cells: tuple[int, int], checkpoints: Callable[[str], Path]
) -> None:
    """Square, landscape or portrait: at sides on the grid, pixel for pixel what controlnet_aux makes."""
    grid = DETECTORS[variant].grid
    shape = (cells[0] * grid, cells[1] * grid)
    folder, rgb = checkpoints(variant), picture(*shape)
    theirs = reference(variant, folder)(rgb)
    ours = load(variant, folder)(batch(rgb), KEYS[:1]).maps
    assert ours.shape == (1, DETECTORS[variant].channels, *shape)
    assert len(np.unique(theirs)) > 1, "a flat map would equal anything"
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


@pytest.mark.parametrize("variant", variants([*NETWORKS, "lineart_standard"]))
@pytest.mark.parametrize("shape", [(63, 70), (100, 30), (1, 1)])
def test_off_the_grid_the_map_is_the_padded_picture_s(
    variant: str, shape: tuple[int, int], checkpoints: Callable[[str], Path]
) -> None:
    """The map has the picture's size and is the reference's of the picture padded by hand, cropped."""
    folder, rgb, grid = checkpoints(variant), picture(*shape), DETECTORS[variant].grid
    padded = np.pad(rgb, [(0, -side % grid) for side in shape] + [(0, 0)], mode="symmetric")
    theirs = reference(variant, folder)(padded)[: shape[0], : shape[1]]
    ours = load(variant, folder)(batch(rgb), KEYS[:1]).maps
    assert ours.shape == (1, DETECTORS[variant].channels, *shape)
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


def test_pidinet_with_its_own_weights(shared: Path) -> None:
    """The published PiDiNet, found on a photograph: the reference's map, and edges where the picture has them."""
    folder, rgb = shared / "weights" / "pidinet", picture(256, 320)
    ours = load("pidinet", folder)(batch(rgb), KEYS[:1]).maps[0, 0].numpy()
    assert np.array_equal(ours, reference("pidinet", folder)(rgb)[..., 0])
    assert ours.max() > 200
    assert np.median(ours) < 30


@pytest.fixture
def small_zoe(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZoeDepth on the smaller of its two kinds of BEiT, 112 million parameters and not 345."""
    detectors()
    from controlnet_aux import zoe

    config = zoe.get_config("zoedepth", "infer")
    config.midas_model_type = "DPT_BEiT_B_384"
    monkeypatch.setattr(zoe, "get_config", lambda *names: config)


@pytest.mark.slow
@pytest.mark.usefixtures("small_zoe")
@pytest.mark.parametrize("variant", ["leres++", "zoe"])
def test_the_heavy_ones_are_the_reference_s(
    variant: str, checkpoints: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """On a picture off the grid: the reference's map of the padded picture, cropped, and not a word printed."""
    folder, rgb = checkpoints(variant), picture(100, 140)
    annotator = load(variant, folder)
    capsys.readouterr()
    ours = annotator(batch(rgb), KEYS[:1]).maps
    assert capsys.readouterr().out == ""
    theirs = reference(variant, folder)(np.pad(rgb, [(0, 28), (0, 52), (0, 0)], mode="symmetric"))[:100, :140]
    assert len(np.unique(theirs)) > 1
    assert np.array_equal(np.broadcast_to(ours[0].permute(1, 2, 0).numpy(), theirs.shape), theirs)


def _easily_pleased(generator: Any) -> None:
    """A generator of SAM's masks that asks at four points and believes every answer, so that random weights find some."""
    generator.point_grids = [np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])]
    generator.pred_iou_thresh = generator.stability_score_thresh = -1e3
    generator.box_nms_thresh = 1


@pytest.mark.slow
def test_sam_is_the_reference_s(checkpoints: Callable[[str], Path]) -> None:
    """The same segments in the same colours where numpy is seeded alike; other colours for another key."""
    folder, rgb = checkpoints("mobile_sam"), picture(128, 64)
    how = DETECTORS["mobile_sam"]
    theirs = detectors().SamDetector.from_pretrained(str(folder), model_type=how.kind, **how.files)
    theirs.mask_generator.predictor.model.eval()  # it was told so before it had its weights, and keeps the old biases
    annotator = load("mobile_sam", folder)
    for generator in (theirs.mask_generator, annotator.detector.mask_generator.generator):
        _easily_pleased(generator)
    first, other = (annotator(batch(rgb), [key]).maps[0].permute(1, 2, 0).numpy() for key in KEYS[:2])
    np.random.seed(int(KEYS[0][:8], 16))
    expected = theirs(rgb, detect_resolution=64, image_resolution=64, output_type="np")
    assert len(np.unique(expected)) > 1
    assert np.array_equal(first, expected)
    assert not np.array_equal(first, other)


def test_where_sam_finds_nothing_its_map_is_black() -> None:
    """No segment is a black map; the reference fails."""

    class Nothing:
        def generate(self, picture: np.ndarray) -> list[Any]:
            return []

    detector = detectors().SamDetector(aux_builders._Masks(Nothing()))
    found = Aux(detector, "sam", files=[], device="cpu")(batch(picture(100, 70)), KEYS[:1]).maps
    assert found.shape == (1, 3, 100, 70)
    assert not found.any()


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet_scribble"]))
def test_binary_maps_hold_two_values(variant: str, checkpoints: Callable[[str], Path]) -> None:
    """What is stored as a 1-bit PNG has only 0 and 255 in it, also where the picture was padded."""
    annotator = load(variant, checkpoints(variant))
    assert annotator.binary
    assert annotator(batch(picture(100, 120)), KEYS[:1]).maps.unique().tolist() == [0, 255]


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet", *WEIGHTLESS]))
def test_a_map_does_not_depend_on_its_batch(variant: str, checkpoints: Callable[[str], Path]) -> None:
    """Three pictures together and each alone: the same maps, and the pictures are left as they were."""
    annotator = load(variant, checkpoints(variant))
    rgb = batch(picture(64, 128), np.flip(picture(64, 128), 1), np.flip(picture(64, 128), 0))
    before = rgb.clone()
    together = annotator(rgb, KEYS).maps
    alone = [annotator(one, [key]).maps for one, key in zip(rgb.split(1), KEYS)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(rgb, before)


def test_shuffle_is_drawn_by_the_key_alone() -> None:
    """The same key gives the same map whatever was drawn before, another key another; numpy's generator goes on."""
    annotator, rgb = load("shuffle"), batch(picture(100, 150))
    np.random.seed(5)
    first, following = annotator(rgb, KEYS[:1]).maps, np.random.rand()
    again, other = annotator(rgb, KEYS[:1]).maps, annotator(rgb, KEYS[1:2]).maps
    assert first.shape == (1, 3, 100, 150)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.random.seed(5)
    assert np.random.rand() == following


def test_shuffle_is_the_reference_s() -> None:
    """With numpy seeded alike, controlnet_aux warps the padded picture to the same map."""
    rgb = picture(128, 192)
    np.random.seed(int(KEYS[0][:8], 16))
    theirs = reference("shuffle", Path())(rgb)
    assert np.array_equal(load("shuffle")(batch(rgb), KEYS[:1]).maps[0].permute(1, 2, 0).numpy(), theirs)


def test_a_face_by_mediapipe() -> None:
    """Where mediapipe is installed, the reference's face is found in the photograph."""
    pytest.importorskip("mediapipe")
    rgb = picture(256, 256)
    ours = load("mediapipe_face")(batch(rgb), KEYS[:1]).maps[0].permute(1, 2, 0).numpy()
    assert ours.any()
    assert np.array_equal(ours, reference("mediapipe_face", Path())(rgb))


@pytest.mark.parametrize("variant", variants(["mlsd", "pidinet", "anyline", "teed", *WEIGHTLESS]))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the mean of no pixels, in controlnet_aux
def test_a_picture_of_one_colour_has_a_map(variant: str, checkpoints: Callable[[str], Path]) -> None:
    """A plain picture is no error, and a filter finds nothing in it."""
    plain = np.full((70, 90, 3), 200, np.uint8)
    found = load(variant, checkpoints(variant))(batch(plain), KEYS[:1]).maps
    assert found.shape[2:] == (70, 90)
    if variant == "lineart_standard":
        assert not found.any()


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_fits_controlnet_aux() -> None:
    """Every detector exists there, and none of condprep's names is missing from the list of annotators."""
    for how in DETECTORS.values():
        assert hasattr(detectors(), how.cls)
    assert specs()["aux"].variants.keys() == DETECTORS.keys()


def test_every_detector_of_the_reference_is_offered_or_left_out_with_a_reason() -> None:
    """No detector of controlnet_aux is passed over in silence."""
    others = {
        **{"CannyDetector": "canny", "HEDdetector": "hed", "MidasDetector": "midas", "OpenposeDetector": "openpose"},
        "DWposeDetector": "dwpose",
    }
    there = {name for name in dir(detectors()) if name.lower().endswith("detector")}
    assert there == {how.cls for how in DETECTORS.values()} | set(others)
    assert set(others.values()) == set(LEFT_OUT)


@pytest.mark.parametrize("name", ["aux:dwpose", "dwpose"])
def test_what_is_left_out_says_why(name: str) -> None:
    """A detector that is known and left out is answered with the reason and what to use instead."""
    with pytest.raises(AnnotatorError, match=rf"there is no .*dwpose.*: {LEFT_OUT['dwpose']}"):
        load_annotator(name)


def test_a_variant_s_name_alone_leads_to_it() -> None:
    """`lineart` is no annotator, but `aux:lineart` is."""
    with pytest.raises(AnnotatorError, match="unknown annotator 'lineart'; did you mean aux:lineart"):
        load_annotator("lineart")


def test_licences_are_said_before_use() -> None:
    """Each variant's line names its licence; what came from restricted weights is recorded as not commercial."""
    for name, line in specs()["aux"].variants.items():
        assert DETECTORS[name].licence in line
    assert not DETECTORS["pidinet"].commercial
    assert not DETECTORS["normalbae"].commercial
    assert not DETECTORS["leres"].commercial
    assert DETECTORS["lineart"].commercial


# --- what is recorded --------------------------------------------------------------------------------------------


def test_the_provenance_names_the_very_files(checkpoints: Callable[[str], Path]) -> None:
    """The sha256 of each file that was loaded, the version of controlnet_aux, licence and commercial use."""
    folder = checkpoints("pidinet_safe")
    made = load("pidinet_safe", folder).provenance
    digest = hashlib.sha256((folder / "table5_pidinet.pth").read_bytes()).hexdigest()
    assert made["weights"] == {"table5_pidinet.pth": digest}
    assert made["parameters"] == {"controlnet_aux": "0.0.10", "safe": True}
    assert "non-commercial" in made["licence"]
    assert made["commercial"] is False


def test_a_build_stores_and_repeats_it(raw: Path, tmp_path: Path, checkpoints: Callable[[str], Path]) -> None:
    """A build with two of them has both columns in the pictures' size, and --like makes the same maps again."""
    weights = Weights(checkpoints("pidinet_scribble"), offline=True, say=lambda _: None)
    ds = tmp_path / "ds"
    names = ("aux:pidinet_scribble", "aux:shuffle")
    condprep.build(raw, ds, annotators=names, resolution=128, fit="bucket", image_format="png", weights=weights)
    from datasets import load_from_disk

    row = load_from_disk(str(ds))["train"][0]
    assert row["aux_pidinet_scribble"].size == row["aux_shuffle"].size == row["image"].size
    assert row["aux_pidinet_scribble"].mode == "1"


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_map_of_another_size_is_refused() -> None:
    """A detector that resizes in spite of everything is an error that names it, not a map out of line."""

    class Halving:
        def __call__(self, input_image: np.ndarray, detect_resolution: int = 512, output_type: str = "pil") -> Any:
            return input_image[::2, ::2]

    annotator = Aux(Halving(), "lineart_standard", files=[], device="cpu")
    with pytest.raises(AnnotatorError, match=r"aux:lineart_standard returned a map \(64, 64, 3\).*\(128, 128, 3\)"):
        annotator(batch(picture(100, 128)), KEYS[:1])


def test_a_picture_too_small_for_its_detector_is_rejected() -> None:
    """LeReS++ fails below 129 pixels: such a picture becomes a reject that says so, and no detector is called."""
    annotator = Aux(lambda picture: picture, "leres++", files=[], device="cpu")
    with pytest.raises(Rejected, match="needs a long side of at least 129 px, this one has 128 px"):
        annotator(batch(picture(128, 64)), KEYS[:1])


def test_a_variant_must_be_named() -> None:
    """`aux` alone is no annotator; the error lists what is."""
    with pytest.raises(AnnotatorError, match="'aux' needs a variant: aux:lineart, aux:lineart_coarse"):
        load_annotator("aux")


@pytest.mark.parametrize(
    ("variant", "missing", "remedy"),
    [
        ("shuffle", "controlnet_aux", r"pip install controlnet-aux==0\.0\.10"),
        ("mediapipe_face", "mediapipe", r"pip install mediapipe==0\.10\.21"),
    ],
)
def test_a_missing_package_is_named(variant: str, missing: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: an error with the line to type, before any weights are looked for."""
    known = aux_adapter.find_spec
    monkeypatch.setattr(aux_adapter, "find_spec", lambda name: None if name == missing else known(name))
    with pytest.raises(AnnotatorError, match=remedy):
        load_annotator(f"aux:{variant}", weights=Weights(offline=True))


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on disk nor reachable: which file, from where, and the command that fetches it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"sk_model\.pth.*condprep weights pull sk_model\.pth --to DIR"):
        load("lineart", tmp_path)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("variant", ["pidinet", "anyline", "mlsd", "normalbae", "leres", "zoe", "sam"])
def test_a_checkpoint_cannot_run_code(
    variant: str, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that runs code is refused before controlnet_aux opens it, even where torch is told to trust files."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (name,) = DETECTORS[variant].weights
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / name, pickle_module=pickle)
    with pytest.raises(WeightsError, match=name):
        load(variant, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_an_error(content: bytes, tmp_path: Path) -> None:
    """An empty file and a text are said to be no checkpoint, by their path."""
    (tmp_path / "MTEED.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"MTEED\.pth cannot be read as a checkpoint"):
        load("anyline", tmp_path)


@pytest.mark.parametrize("variant", ["lineart", "pidinet", "mlsd", "anyline", "normalbae", "leres", "mobile_sam"])
def test_a_checkpoint_of_another_model_is_an_error(variant: str, tmp_path: Path) -> None:
    """A sound file of something else is named, with the detector that it does not fit."""
    for name in DETECTORS[variant].weights:
        torch.save({"weight": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"another model than (controlnet_aux's {DETECTORS[variant].cls}|{name})"):
        load(variant, tmp_path)


class TinyZoe(torch.nn.Module):
    """What stands in for ZoeDepth where only its file matters."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(2, 2)

    @classmethod
    def build_from_config(cls, config: Any) -> TinyZoe:
        return cls()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, ""),
        ({"blocks.0.attn.relative_position_index": torch.zeros(3)}, ""),
        ({"out.bias": None}, "missing out.bias"),
        ({"other": torch.zeros(3)}, "unexpected other"),
        ({"out.bias": torch.zeros(3)}, "of another shape out.bias"),
    ],
)
def test_zoe_takes_only_a_checkpoint_that_fits(
    change: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor must be there and none left over, but for the buffers that old versions of timm saved.

    The reference loads whatever fits and says nothing.
    """
    detectors()
    monkeypatch.setattr("controlnet_aux.zoe.ZoeDepth", TinyZoe)
    state = {name: value for name, value in {**TinyZoe().state_dict(), **change}.items() if value is not None}
    torch.save({"model": state}, tmp_path / "ZoeD_M12_N.pt")
    weights = Weights(tmp_path, offline=True, say=lambda _: None)
    if not complaint:
        loaded = load_annotator("aux:zoe", weights=weights).detector.model
        assert torch.equal(loaded.out.weight, state["out.weight"])
        assert not loaded.training
        return
    with pytest.raises(WeightsError, match=rf"ZoeD_M12_N\.pt is a checkpoint of another model.*{complaint}"):
        load_annotator("aux:zoe", weights=weights)


def test_memory_that_runs_out_is_no_fault_of_the_weights(
    checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory on the device while loading is said as such, and not that the checkpoint is another model's."""

    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(aux_adapter, "build", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_annotator("aux:teed", weights=Weights(checkpoints("teed"), offline=True, say=lambda _: None))


def test_it_is_loaded_late_and_quietly() -> None:
    """controlnet_aux is imported by such an annotator alone, and its page of warnings does not reach the user."""
    code = (
        "import sys, condprep; condprep.load_annotator('canny'); assert 'controlnet_aux' not in sys.modules; "
        "condprep.load_annotator('aux:shuffle'); assert 'controlnet_aux' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
