"""Half precision: which network has it where, how near its maps are to fp32's, and that a build keeps to one."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.aux_models import Checkpoints, batch, picture, undrawn
from support.tiny_models import dpt, zoedepth
from torch import Tensor

from condprep import build, load_annotator
from condprep.annotators import precision
from condprep.annotators.builtin import BUILTIN
from condprep.annotators.lines.pidinet import PidiNetwork
from condprep.annotators.precision import AUTO, resolve_precision
from condprep.errors import DatasetError
from condprep.weights.find import Weights

SHARED = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[3] / "shared"))
PIDINET = SHARED / "weights" / "pidinet"
KEYS = [sha256(bytes([n])).hexdigest() for n in range(2)]
real = pytest.mark.skipif(not PIDINET.is_dir(), reason=f"no weights in {PIDINET}")


def load(name: str, folder: Path, how: str) -> Any:
    with undrawn(0.3):
        weights = Weights(folder, offline=True, say=lambda _: None)
        return load_annotator(name, params={"precision": how}, weights=weights)


def apart(name: str, folder: Path, how: str, rgb: Tensor) -> Tensor:
    """Grey levels between maps in `how` and in fp32."""
    exact, half = (load(name, folder, one)(rgb, KEYS[: len(rgb)]).maps.float() for one in ("fp32", how))
    assert exact.std() > 5, "a flat map would equal any"
    return (half - exact).abs()


@pytest.mark.parametrize(
    "name",
    ["lineart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lineart_anime", "normalbae"))],
)
def test_half_precision_is_near_enough(name: str, checkpoints: Checkpoints) -> None:
    """In what a GPU takes: on average less than a level from fp32's maps, 99.9 % of the pixels within 8; random weights."""
    half = AUTO[name][0]
    assert half != "fp32"
    difference = apart(name, checkpoints(name), half, batch(picture(200, 180)))
    assert difference.any(), "half precision was not used"
    assert difference.mean() < 1
    assert (difference > 8).float().mean() <= 1e-3


@real
def test_pidinet_in_fp16_is_near_enough() -> None:
    """The same of the published weights, in all three styles; of thick strokes and three levels one pixel in 300 may change."""
    rgb = batch(picture(200, 180))
    for name, how in (("pidinet", (8, 1e-3)), ("pidinet:safe", (0, 1 / 300)), ("pidinet:scribble", (0, 1 / 300))):
        difference = apart(name, PIDINET, AUTO["pidinet"][0], rgb)
        assert difference.mean() < 1
        assert (difference > how[0]).float().mean() <= how[1]


@real
def test_pidinet_stays_within_fp16_on_stripes_of_a_pixel() -> None:
    """Its coarsest scale goes beyond fp16's largest number there, in fp32 under autocast; all before it, and the map, stay within."""
    stripes = np.where((np.indices((96, 128)).sum(0) % 2)[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    columns = np.where((np.indices((96, 128))[1] % 2)[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    annotator = load("pidinet", PIDINET, "fp16")
    seen: dict[torch.dtype, float] = {}
    for part in annotator.network.modules():
        part.register_forward_hook(
            lambda _, __, out: seen.update({out.dtype: max(seen.get(out.dtype, 0), float(out.abs().max()))})
        )
    maps = annotator(batch(stripes, columns), KEYS).maps
    assert seen[torch.float16] < 65504 / 4
    assert seen[torch.float32] > 65504
    exact = load("pidinet", PIDINET, "fp32")(batch(stripes, columns), KEYS).maps
    assert (maps.int() - exact.int()).abs().float().mean() < 1


def test_every_network_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table names annotators alone; bf16 is only where it is native, and a network that is not there computes in fp32."""
    assert AUTO.keys() <= {spec.name for spec in BUILTIN}
    monkeypatch.setattr(precision, "_native_bf16", lambda kind: True)
    assert {name: resolve_precision("auto", "cuda:1", name) for name in AUTO} == {
        n: gpu for n, (gpu, _) in AUTO.items()
    }
    assert {name: resolve_precision("auto", "cpu", name) for name in AUTO} == {n: cpu for n, (_, cpu) in AUTO.items()}
    for exact in ("mlsd", "teed", "dwpose"):
        assert resolve_precision("auto", "cuda", exact) == "fp32"
        assert resolve_precision("bf16", "cuda", exact) == "bf16"
    monkeypatch.setattr(precision, "_native_bf16", lambda kind: False)
    assert resolve_precision("auto", "cuda", "hed") == "fp32"
    assert resolve_precision("auto", "cuda", "pidinet") == "fp16"


def test_a_build_goes_on_in_its_own_precision_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto was when it began is in the plan: where auto is another by now, as on another device, going on is refused."""
    from PIL import Image

    (tmp_path / "raw").mkdir()
    for number in range(3):
        Image.fromarray(picture(64, 64)).rotate(90 * number).save(tmp_path / "raw" / f"{number}.png")
    torch.save({"state_dict": PidiNetwork().state_dict()}, tmp_path / "table5_pidinet.pth")

    def run(stops: bool = False, **options: Any) -> Any:
        def progress(at: Any) -> None:
            if stops and at.stage == "build" and at.done:
                raise KeyboardInterrupt

        weights = Weights(tmp_path, offline=True, say=lambda _: None)
        return build(
            tmp_path / "raw", tmp_path / "ds", "pidinet", resolution=64, shard_rows=1, weights=weights, device="cpu",
            progress=progress, **options,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(stops=True)
    with monkeypatch.context() as patch:
        patch.setattr(precision, "AUTO", {"pidinet": ("bf16", "bf16")})
        patch.setattr(precision, "_native_bf16", lambda kind: True)
        with pytest.raises(DatasetError, match="precision: 'fp32' there, 'bf16' now"):
            run()
    with pytest.raises(DatasetError, match="precision: None there, 'bf16' now"):
        run(precision="bf16")
    assert run().rows == {"train": 3}


def test_metres_are_the_same_in_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a CPU computes in bf16, in which inverse depth near the viewer is another in each batch: other depth is in bf16 there."""
    monkeypatch.setattr(precision, "_native_bf16", lambda _: True)
    for name, make, wanted in (("metres", zoedepth, "fp32"), ("relative", dpt, "bf16")):
        make(tmp_path / name)
        annotator: Any = load_annotator(f"depth:{tmp_path / name}")
        assert annotator.provenance["parameters"]["precision"] == annotator.model.precision == wanted
        pictures = batch(*(picture(60, 50)[:, 7 * n : 7 * n + 36] for n in range(2)))
        together = annotator(pictures, KEYS).maps.int()
        for number, one in enumerate(together):
            alone = annotator(pictures[number : number + 1], KEYS[:1]).maps[0].int()
            assert (alone - one).abs().max() <= 1
