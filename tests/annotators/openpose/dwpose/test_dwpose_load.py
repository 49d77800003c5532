"""How openpose:dwpose is loaded: its files are data, damaged or foreign ones are named, and nothing stands in unsaid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.dwpose_models import as_weights

from condprep.annotators.openpose.dwpose.network import Network
from condprep.annotators.openpose.dwpose.onnx_file import read_graph
from condprep.annotators.openpose.dwpose.operations import OPERATIONS
from condprep.annotators.openpose.load import DWPOSE
from condprep.annotators.registry import load_annotator
from condprep.errors import WeightsError, WeightsUnavailable
from condprep.weights.find import Weights

onnx = pytest.importorskip("onnx")


@pytest.fixture
def folder(detector: Path, landmarks: Path, tmp_path: Path) -> Path:
    """Both networks as `--weights` wants them."""
    for path in (detector, landmarks):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_each_variant_is_loaded_by_name(folder):
    """The loaded variant, its files and its licence are recorded; the files are the user's own, which is said."""
    said: list[str] = []
    weights = Weights(folder, offline=True, say=said.append)
    for variant in ("dwpose", "dwpose-hand", "dwpose-face", "dwpose-full"):
        annotator = load_annotator(f"openpose:{variant}", device="cpu", weights=weights)
        assert (annotator.name, annotator.variant) == ("openpose", variant)
        assert annotator.provenance["weights"] == {name: as_weights(folder / name).sha256 for name in DWPOSE}
        assert annotator.provenance["commercial"]
        assert annotator.provenance["parameters"] == {"precision": "fp32"}
    assert ["your own" in line for line in said] == [True, True]


def test_plain_openpose_takes_it_before_blaze(folder):
    """Without the CMU weights dwpose stands in where its own are at hand, and a line says so; strict weights refuse."""
    said: list[str] = []
    annotator = load_annotator("openpose", device="cpu", weights=Weights(folder, offline=True, say=said.append))
    assert annotator.variant == "dwpose"
    assert "USING openpose:dwpose INSTEAD" in "\n".join(said)
    with pytest.raises(WeightsUnavailable, match=r"body_pose_model\.pth"):
        load_annotator("openpose", device="cpu", weights=Weights(folder, offline=True, strict=True))


def test_files_that_are_none_are_named(folder, detector, landmarks):
    """Cut, empty, text, exchanged: an error that names the file, and never another exception."""
    whole = detector.read_bytes()
    for content in (b"", b"not a model", whole[: len(whole) // 2], whole[:100] + bytes(1000) + whole[1100:]):
        (folder / detector.name).unlink()
        (folder / detector.name).write_bytes(content)
        with pytest.raises(WeightsError, match=r"yolox_l\.onnx"):
            load_annotator("openpose:dwpose", device="cpu", weights=Weights(folder, offline=True))
    with pytest.raises(WeightsError, match=r"dw-ll_ucoco_384\.onnx: (another|not a sound) network"):
        Network(landmarks, input=(3, 640, 640), outputs=[(8400, 85)])


def written(
    path: Path, *nodes: Any, constants: dict[str, np.ndarray] | None = None, shape: tuple = (1, 2, 4, 4)
) -> Path:
    """A model of these operations, from x to y."""
    graph = onnx.helper.make_graph(
        nodes,
        "made here",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), path)
    return path


def node(op: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return onnx.helper.make_node(op, ["x", *inputs], list(outputs), **attributes)


def test_networks_that_cannot_be_run_are_refused(tmp_path):
    """Unknown operations, those of others, weights elsewhere, networks within, wrong shapes, too much memory: by name."""
    inner = onnx.helper.make_graph([], "inner", [], [])
    cases = {
        "unknown operation NonZero": [node("NonZero")],
        "which the standard does not define": [node("Anything", domain="com.example")],
        "a network inside": [node("If", then_branch=inner, else_branch=inner)],
        "nearest pixel": [node("Resize", "", "s", mode="cubic")],
        "same on opposite sides": [node("Conv", "w", pads=[0, 1, 0, 0], kernel_shape=[1, 1])],
        "not a sound network": [node("MatMul", "w")],
        "activations of more than": [node("Resize", "", "s", mode="nearest")],
        "another network": [node("Relu")],
    }
    constants = {"w": np.ones((3, 2, 1, 1), "f4"), "s": np.array([1, 1, 5000, 5000], "f4")}
    for message, nodes in cases.items():
        path = written(tmp_path / "yolox_l.onnx", *nodes, constants=constants)
        with pytest.raises(WeightsError, match=rf"yolox_l\.onnx: .*{message}"):
            Network(path, input=(2, 4, 4), outputs=[(3, 4, 4)])


def test_weights_in_another_file_are_refused(tmp_path):
    """No file that a model names is ever opened."""
    model = onnx.load(written(tmp_path / "a.onnx", node("Add", "w"), constants={"w": np.ones((64, 64), "f4")}))
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
    with pytest.raises(WeightsError, match="in another file"):
        read_graph(tmp_path / "a.onnx")


def test_constants_without_values_are_refused(tmp_path):
    """A shape alone asks for no memory."""
    path = written(tmp_path / "a.onnx", node("Add", "w"), constants={"w": np.ones((2, 2), "f4")})
    model = onnx.load(path)
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([1 << 20, 1 << 20])
    onnx.save(model, path)
    with pytest.raises(WeightsError, match="fewer values than its shape"):
        read_graph(path)


def made(op: str, x: np.ndarray, *inputs: np.ndarray, **attributes: Any) -> np.ndarray:
    tensors = [torch.from_numpy(np.asarray(one)) for one in (x, *inputs)]
    result = OPERATIONS[op]({"outputs": 1, **attributes}, *tensors)
    return (result if isinstance(result, torch.Tensor) else result[0]).numpy()


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("BatchNormalization", [np.full(2, 2, "f4"), np.ones(2, "f4"), np.zeros(2, "f4"), np.ones(2, "f4")], {}),
        ("Clip", [], {}),
        ("Clip", [np.float32(0.2), np.float32(0.6)], {}),
        ("Concat", [np.ones((1, 2, 4, 4), "f4")], {"axis": -1}),
        ("Flatten", [], {"axis": 2}),
        ("Gather", [np.array([1, 0, 1])], {"axis": 2}),
        ("Gather", [np.array(1)], {"axis": 1}),
        ("GlobalAveragePool", [], {}),
        ("HardSigmoid", [], {"alpha": 0.3}),
        ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("Pow", [np.float32(2)], {}),
        ("ReduceL2", [], {"axes": [2], "keepdims": 0}),
        ("ReduceMean", [], {"axes": [1, 3]}),
        ("Reshape", [np.array([0, -1])], {}),
        ("Slice", [np.array([1]), np.array([4]), np.array([3]), np.array([2])], {}),
        ("Slice", [np.array([-2, 0]), np.array([1 << 40, -1])], {}),
        ("Softmax", [], {"axis": 1}),
        ("Split", [np.array([1, 3])], {"axis": 3}),
        ("Squeeze", [np.array([0])], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Transpose", [], {}),
        ("Unsqueeze", [np.array([0, -1])], {}),
    ],
)
def test_operations_are_the_standard_s(tmp_path, op, inputs, attributes):
    """Each on random values: what onnxruntime makes of it."""
    runtime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(1).random((1, 2, 4, 4), np.float32)
    names = [f"i{n}" for n in range(len(inputs))]
    outputs = ("y", "z") if op == "Split" else ("y",)
    path = written(
        tmp_path / "a.onnx",
        node(op, *names, outputs=outputs, **attributes),
        constants=dict(zip(names, map(np.asarray, inputs))),
    )
    [expected] = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})
    np.testing.assert_allclose(made(op, x, *inputs, **attributes), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factors", [[2.0, 3.0], [1.0, 1.0]])
def test_enlarging_is_the_standard_s(tmp_path, factors):
    """By scales or by sizes, with or without a region."""
    runtime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(1).random((1, 2, 4, 5), np.float32)
    scales = np.array([1, 1, *factors], "f4")
    sizes = (scales * x.shape).astype(np.int64)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    path = written(tmp_path / "a.onnx", node("Resize", "", "s", **how), constants={"s": scales}, shape=(1, 2, 4, 5))
    [expected] = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})
    empty = np.zeros(0, "f4")
    for inputs in ([scales], [empty, scales], [empty, empty, sizes]):
        assert np.array_equal(made("Resize", x, *inputs, mode="nearest"), expected)
    assert np.array_equal(made("Upsample", x, scales=scales.tolist(), mode="nearest"), expected)
