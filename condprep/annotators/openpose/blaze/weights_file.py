"""The weights of a TensorFlow.js graph model as plain data: arrays by name, from a .json that lists them and a .bin.

Both files are untrusted: whatever is wrong with them becomes a WeightsError, and the memory they can ask for is bounded. The
graph in the .json is not read. Layout: tfjs-core/src/io/types.ts (WeightsManifestConfig) in the TensorFlow.js repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condprep.errors import WeightsError

MAX_LIST = 4 << 20  # bytes; the largest list has 0.3 MB
MAX_FILE = 64 << 20  # bytes; the larger of the two networks has 12 MB
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),  # as what float32 is stored
    "int32": np.dtype("<i4"),
}


def read_weights(listed: Path, stored: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of float32 by the names of the file. Raises WeightsError, naming the file, for what is damaged or too large."""
    for path, limit in ((listed, MAX_LIST), (stored, MAX_FILE)):
        if path.stat().st_size > limit:
            raise WeightsError(f"{path}: {path.stat().st_size} bytes, but a file of MoveNet has less than {limit}")
    data = stored.read_bytes()
    try:
        arrays, used = _arrays(data, _entries(json.loads(listed.read_bytes())))
    except WeightsError as error:
        raise WeightsError(f"{listed}: {error}") from None
    except Exception as error:  # a damaged list can be wrong in any way
        raise WeightsError(f"{listed}: not a TensorFlow.js model ({type(error).__name__}: {error})") from error
    if used != len(data):
        raise WeightsError(f"{stored}: {len(data)} bytes, but {listed.name} lists {used}")
    return arrays


def _entries(model: Any) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """Name, type on disk and shape of each array, in the order of the file."""
    for group in model["weightsManifest"]:
        for entry in group["weights"]:
            kind = entry.get("quantization", entry)["dtype"]
            if kind not in DTYPES:
                raise WeightsError(f"the weights {entry['name']!r} are {kind!r}; {', '.join(DTYPES)} are known")
            yield str(entry["name"]), DTYPES[kind], tuple(map(int, entry["shape"]))


def _arrays(
    data: bytes, entries: Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """The arrays of numbers that are no whole ones, and how many bytes all take."""
    found: dict[str, NDArray[np.float32]] = {}
    start = 0
    for name, dtype, shape in entries:
        count = math.prod(shape)
        if min(shape, default=0) < 0 or start + count * dtype.itemsize > len(data):
            raise WeightsError(f"the weights {name!r} of shape {shape} are not all there")
        if dtype.kind == "f":
            found[name] = np.frombuffer(data, dtype, count, start).reshape(shape).astype(np.float32)
        start += count * dtype.itemsize
    return found, start
