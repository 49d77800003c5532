"""The .tflite executor: every operation against its definition, real models against LiteRT, damage against a crash."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tflite
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from support.blaze_models import models
from support.tiny_tflite import Tiny

from condprep.annotators.openpose.blaze import detector, graph, landmarks, network
from condprep.annotators.openpose.blaze.network import Network
from condprep.errors import WeightsError

RNG = np.random.default_rng(0)
SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID
CONV = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "Padding": VALID}
NETWORKS = {  # the real ones: which file, input side, outputs
    "detector": (0, detector.SIZE, {0: (2254, 12), 1: (2254, 1)}),
    "landmarks": (1, landmarks.SIZE, {0: (195,), 1: (1,), 3: (64, 64, 39)}),
}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def run(path: Path, pictures: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """The model's only output for pictures (N, S, S, 3), its pictures (N, H, W, C) again."""
    made = Network(path, size=pictures.shape[1], outputs={0: output})
    (result,) = made(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()


def slow_conv(x: np.ndarray, weight: np.ndarray, stride: int, same: bool) -> np.ndarray:
    """TensorFlow's convolution by its definition: x (H, W, I), weight (O, kh, kw, I) -> (H', W', O)."""
    kernel = weight.shape[1]
    if same:
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[:2]]
        x = np.pad(x, [*((t // 2, t - t // 2) for t in total), (0, 0)])
    height, width = ((n - kernel) // stride + 1 for n in x.shape[:2])
    out = np.empty((height, width, len(weight)), np.float32)
    for i, j in np.ndindex(height, width):
        window = x[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        out[i, j] = (window * weight).sum((1, 2, 3))
    return out


@settings(max_examples=40, deadline=None)
@given(side=st.integers(3, 9), kernel=st.integers(1, 3), stride=st.integers(1, 3), same=st.booleans())
def test_convolution_is_tensorflows(
    tmp_path_factory: pytest.TempPathFactory, side: int, kernel: int, stride: int, same: bool
) -> None:
    """Any side, kernel and stride: the sum over the window, SAME padding with the odd pixel at the end, bias, ReLU6."""
    x, weight, bias = normal(2, side, side, 3), normal(4, kernel, kernel, 3), normal(4)
    expected = np.stack([slow_conv(one, weight, stride, same) + bias for one in x]).clip(0, 6)
    tiny = Tiny(1, side, side, 3)
    options = CONV | {"StrideH": stride, "StrideW": stride, "Padding": SAME if same else VALID}
    inputs = [0, tiny.constant(weight), tiny.constant(bias)]
    out = tiny.op("CONV_2D", inputs, (1, *expected.shape[1:]), **options, FusedActivationFunction=3)
    path = tiny.save(tmp_path_factory.mktemp("conv") / "conv.tflite", out)
    np.testing.assert_allclose(run(path, x, expected.shape[1:]), expected, atol=1e-5)


def test_depthwise_convolution_sees_one_channel_each(tmp_path: Path) -> None:
    """Output channel c is the convolution of input channel c with slice c of a (1, kh, kw, C) weight."""
    x, weight = normal(1, 5, 5, 3), normal(1, 3, 3, 3)
    alone = [slow_conv(x[0, ..., c : c + 1], weight[..., c : c + 1], 1, True) for c in range(3)]
    tiny = Tiny(1, 5, 5, 3)
    out = tiny.op(
        "DEPTHWISE_CONV_2D", [0, tiny.constant(weight)], (1, 5, 5, 3), **CONV | {"Padding": SAME}, DepthMultiplier=1
    )
    found = run(tiny.save(tmp_path / "m.tflite", out), x, (5, 5, 3))
    np.testing.assert_allclose(found[0], np.concatenate(alone, -1), atol=1e-5)


def test_padding_before_a_convolution(tmp_path: Path) -> None:
    """PAD and a VALID convolution are the convolution of the padded picture, though PAD is never run."""
    x, weight = normal(1, 4, 4, 3), normal(2, 3, 3, 3)
    expected = slow_conv(np.pad(x[0], [(2, 2), (1, 1), (0, 0)]), weight, 1, False)
    tiny = Tiny(1, 4, 4, 3)
    pads = tiny.constant(np.array([[0, 0], [2, 2], [1, 1], [0, 0]], np.int32))
    padded = tiny.op("PAD", [0, pads], (1, 8, 6, 3))
    out = tiny.op("CONV_2D", [padded, tiny.constant(weight)], (1, *expected.shape), **CONV)
    np.testing.assert_allclose(run(tiny.save(tmp_path / "m.tflite", out), x, expected.shape)[0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sparse_and_half_precision_weights(tmp_path: Path, dtype: Any) -> None:
    """A weight stored sparse and in half precision acts as the same weight stored dense in single precision."""
    x, weight = normal(1, 4, 4, 3), normal(5, 1, 1, 3).astype(dtype)
    weight[RNG.random(weight.shape) < 0.5] = 0
    tiny = Tiny(1, 4, 4, 3)
    dense = tiny.op("DENSIFY", [tiny.sparse(weight)], weight.shape)
    single = tiny.op("DEQUANTIZE", [dense], weight.shape)
    out = tiny.op("CONV_2D", [0, single], (1, 4, 4, 5), **CONV)
    expected = slow_conv(x[0], weight.astype(np.float32), 1, False)
    np.testing.assert_allclose(run(tiny.save(tmp_path / "m.tflite", out), x, (4, 4, 5))[0], expected, atol=1e-5)


def reference(kind: str, x: np.ndarray) -> np.ndarray:
    """What an operation without weights makes of a picture (4, 4, 4), written out."""
    match kind:
        case "DEPTH_TO_SPACE":  # channel 2 * dy + dx of a cell becomes pixel (dy, dx) of its block
            return x.reshape(4, 4, 2, 2, 1).transpose(0, 2, 1, 3, 4).reshape(8, 8, 1)
        case "MAX_POOL_2D":
            return x.reshape(2, 2, 2, 2, 4).max((1, 3))
        case "LOGISTIC":
            return 1 / (1 + np.exp(-x))
        case "ADD":
            return x + x
        case "CONCATENATION":  # along the rows
            return np.concatenate([x, x], 0)
        case "RESHAPE":  # rows, columns and channels in the order of the file
            return x.reshape(16, 4)
        case "RESIZE_BILINEAR":  # to twice the size, half pixel centres, the border held
            positions = (np.arange(8) + 0.5) / 2 - 0.5
            weights = np.stack([np.interp(positions, np.arange(4), one) for one in np.eye(4)], 1)
            return np.einsum("ih,jw,hwc->ijc", weights, weights, x)
    raise AssertionError(kind)


OPTIONS: dict[str, dict[str, Any]] = {
    "DEPTH_TO_SPACE": {"BlockSize": 2},
    "MAX_POOL_2D": {"FilterHeight": 2, "FilterWidth": 2, "StrideH": 2, "StrideW": 2, "Padding": VALID},
    "LOGISTIC": {},
    "ADD": {},
    "CONCATENATION": {"Axis": 1},
    "RESHAPE": {},
    "RESIZE_BILINEAR": {"HalfPixelCenters": True},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_operations_without_weights(tmp_path: Path, kind: str) -> None:
    """Each is what its definition says, for every picture of the batch."""
    tiny = Tiny(1, 4, 4, 3)
    weight = normal(4, 1, 1, 3)
    grown = tiny.op("CONV_2D", [0, tiny.constant(weight)], (1, 4, 4, 4), **CONV)
    more = {
        "ADD": [grown],
        "CONCATENATION": [grown],
        "RESHAPE": [tiny.constant(np.array([1, 16, 4], np.int32))] if kind == "RESHAPE" else [],
        "RESIZE_BILINEAR": [tiny.constant(np.array([8, 8], np.int32))] if kind == "RESIZE_BILINEAR" else [],
    }
    x = normal(2, 4, 4, 3)
    expected = np.stack([reference(kind, slow_conv(one, weight, 1, False)) for one in x])
    out = tiny.op(kind, [grown, *more.get(kind, [])], (1, *expected.shape[1:]), **OPTIONS[kind])
    found = run(tiny.save(tmp_path / "m.tflite", out), x, expected.shape[1:])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_models_agree_with_litert(name: str) -> None:
    """BlazePose's networks here and in Google's own runtime differ by rounding: 2e-5 of the largest value (or of 1)."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    which, size, outputs = NETWORKS[name]
    path = models()[which].path
    x = cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA)[None].astype(np.float32) / 255
    oracle = interpreter.Interpreter(str(path))
    oracle.allocate_tensors()
    oracle.set_tensor(oracle.get_input_details()[0]["index"], x)
    oracle.invoke()
    with torch.inference_mode():
        found = Network(path, size=size, outputs=outputs)(torch.from_numpy(x).permute(0, 3, 1, 2))
    for number, ours in zip(outputs, found, strict=True):
        theirs = oracle.get_tensor(oracle.get_output_details()[number]["index"])
        ours = ours.permute(0, 2, 3, 1) if ours.ndim == 4 else ours
        assert np.abs(ours.numpy() - theirs).max() <= 2e-5 * max(np.abs(theirs).max(), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_what_the_wanted_outputs_need_is_computed(name: str) -> None:
    """One output alone is the same as with the others, from fewer operations."""
    which, size, outputs = NETWORKS[name]
    path = models()[which].path
    number, shape = list(outputs.items())[-1]
    all_of_it, part = Network(path, size=size, outputs=outputs), Network(path, size=size, outputs={number: shape})
    x = torch.from_numpy(RNG.random((1, 3, size, size), np.float32))
    with torch.inference_mode():
        assert torch.equal(all_of_it(x)[-1], part(x)[0])
    assert len(part.steps) < len(all_of_it.steps)


def small(path: Path, **options: Any) -> Path:
    """A sound model of one convolution, a fifth of a kilobyte of weights."""
    tiny = Tiny(1, 4, 4, 3)
    weight = tiny.op("DENSIFY", [tiny.sparse(np.array([[[[0, 1, 2]]], [[[3, 0, 0]]]], np.float32))], (2, 1, 1, 3))
    return tiny.save(path, tiny.op("CONV_2D", [0, weight], (1, 4, 4, 2), **CONV | options))


@pytest.mark.slow
def test_any_damaged_byte_is_harmless(tmp_path: Path) -> None:
    """With any one byte changed, a model loads and runs, or raises WeightsError; nothing else, and no large memory."""
    sound = small(tmp_path / "sound.tflite").read_bytes()
    path, before, refused = tmp_path / "damaged.tflite", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for position in range(len(sound)):
        for change in (1, 128, 255):
            damaged = bytearray(sound)
            damaged[position] ^= change
            path.write_bytes(damaged)
            try:
                run(path, np.zeros((1, 4, 4, 3), np.float32), (4, 4, 2))
            except WeightsError:
                refused += 1
    assert refused > len(sound)  # most bytes of such a small file matter
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("name", NETWORKS)
def test_a_truncated_model_is_refused(tmp_path: Path, name: str) -> None:
    """Cut anywhere, a model raises WeightsError that names the file."""
    which, size, outputs = NETWORKS[name]
    sound, path = models()[which].path.read_bytes(), tmp_path / "cut.tflite"
    for length in (0, 3, 8, 1000, len(sound) // 2, len(sound) - 1000):
        path.write_bytes(sound[:length])
        with pytest.raises(WeightsError, match=r"cut\.tflite"):
            Network(path, size=size, outputs=outputs)


def wrong_sparse(tiny: Tiny) -> int:
    weight = tiny.op("DENSIFY", [tiny.sparse(np.ones((2, 1, 1, 3), np.float32), shift=1)], (2, 1, 1, 3))
    return tiny.op("CONV_2D", [0, weight], (1, 4, 4, 2), **CONV)


def wrong_shape(tiny: Tiny) -> int:
    return tiny.op("CONV_2D", [0, tiny.constant(np.ones((2, 3, 3, 3), np.float32))], (1, 4, 4, 2), **CONV)


def huge_resize(tiny: Tiny) -> int:
    size = tiny.constant(np.array([60_000, 60_000], np.int32))
    return tiny.op("RESIZE_BILINEAR", [0, size], (1, 4, 4, 2), HalfPixelCenters=True)


def huge_tensor(tiny: Tiny) -> int:
    return tiny.op("LOGISTIC", [0], (1, 60_000, 60_000, 2))


def dilated(tiny: Tiny) -> int:
    weight = tiny.constant(np.ones((2, 1, 1, 3), np.float32))
    return tiny.op("CONV_2D", [0, weight], (1, 4, 4, 2), **CONV | {"DilationHFactor": 2})


def lonely_pad(tiny: Tiny) -> int:
    pads = tiny.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    padded = tiny.op("PAD", [0, pads], (1, 6, 6, 3))
    return tiny.op("LOGISTIC", [padded], (1, 6, 6, 3))


def loop(tiny: Tiny) -> int:
    return tiny.op("ADD", [1, 1], (1, 4, 4, 2))  # its own output


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda tiny: tiny.op("TANH", [0], (1, 4, 4, 2)), "unknown operation TANH"),
        (wrong_sparse, "indices do not fit"),
        (wrong_shape, "declared"),
        (huge_resize, "declared"),
        (huge_tensor, "at most"),
        (dilated, "dilation"),
        (lonely_pad, "PAD"),
        (loop, "not a sound network"),
        (lambda tiny: tiny.op("LOGISTIC", [7], (1, 4, 4, 2)), "do not exist"),
    ],
)
def test_an_unsound_model_is_refused(tmp_path: Path, build: Callable[[Tiny], int], says: str) -> None:
    """What cannot be run, or would need more memory than it declares, raises WeightsError that says what."""
    tiny = Tiny(1, 4, 4, 3)
    path = tiny.save(tmp_path / "m.tflite", build(tiny))
    with pytest.raises(WeightsError, match=says):
        Network(path, size=4, outputs={0: (4, 4, 2)})


def test_another_model_is_refused() -> None:
    """The detector's file where the landmarks belong raises WeightsError, when it is loaded and not at the first use."""
    with pytest.raises(WeightsError, match="another model"):
        landmarks.Landmarker(models()[0].path, "cpu", chunk=1)


def test_limits_hold_for_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, weights and operations over the limits raise WeightsError before memory is taken."""
    path = small(tmp_path / "m.tflite")
    for limit, says in (("MAX_FILE", "bytes"), ("MAX_PARTS", "tensors or operations"), ("MAX_CONSTANTS", "weights")):
        with monkeypatch.context() as patch:
            patch.setattr(graph, limit, 1)
            with pytest.raises(WeightsError, match=says):
                Network(path, size=4, outputs={0: (4, 4, 2)})
    monkeypatch.setattr(network, "MAX_ACTIVATIONS", 1)
    with pytest.raises(WeightsError, match="activations"):
        Network(path, size=4, outputs={0: (4, 4, 2)})
