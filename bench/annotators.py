"""Speed of the annotators against controlnet_aux's detectors, in one run on the same pictures.

    python bench/annotators.py [hed depth ...] [--device cuda] [--size 512] [--batch 4] [--precision auto] [--rounds 3]

Both sides hold the same random weights: the values do not change the speed. The parts are timed in turn, `rounds` times,
and the fastest round counts, so that a busy machine spoils a round and not a ratio.

network     pictures/s of the network alone, from the tensor that it takes
annotator   pictures/s from (B, 3, H, W) uint8 on the device to the maps
peer        pictures/s of the detector, one picture a call, from and to numpy
ratio       annotator / peer
GFLOP       of the network for one picture, as torch.utils.flop_counter counts them
share       of the roofline: GFLOP x network / the device's own rate on a square matrix product in that precision
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skimage import data
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from condprep import load_annotator
from condprep.annotators.base import Annotator
from condprep.annotators.precision import DTYPES, autocast
from condprep.weights import Weights

KEY = "0" * 64
Detector = Callable[[np.ndarray], Any]  # (H, W, 3) uint8 RGB -> map


@dataclass(frozen=True)
class Case:
    """An annotator and its peer."""

    name: str
    state: Callable[[], dict[str, Tensor]] | None  # a random checkpoint that both can load
    file: str  # its name
    peer: Callable[[Path, str, int], Detector]  # folder, device, size
    network: Callable[[Annotator], tuple[nn.Module, Callable[[Tensor], Tensor]]] | None  # it, and what it is fed


def hed_state() -> dict[str, Tensor]:
    from controlnet_aux.hed import ControlNetHED_Apache2

    return ControlNetHED_Apache2().state_dict()  # type: ignore[no-any-return]


def depth_state() -> dict[str, Tensor]:
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    return DPTDepthModel(backbone="vitb_rn50_384").state_dict()  # type: ignore[no-any-return]


def canny_peer(folder: Path, device: str, size: int) -> Detector:
    from controlnet_aux import CannyDetector

    return lambda rgb: CannyDetector()(rgb, detect_resolution=size, image_resolution=size, output_type="np")


def hed_peer(folder: Path, device: str, size: int) -> Detector:
    from controlnet_aux import HEDdetector

    detector = HEDdetector.from_pretrained(folder).to(device)
    return lambda rgb: detector(rgb, size, size, output_type="np")


def depth_peer(folder: Path, device: str, size: int) -> Detector:
    from controlnet_aux import MidasDetector

    detector = MidasDetector.from_pretrained(folder).to(device)
    return lambda rgb: detector(rgb, detect_resolution=size, image_resolution=size)


CASES = (
    Case("canny", None, "", canny_peer, None),
    Case("hed", hed_state, "ControlNetHED.pth", hed_peer, lambda hed: (hed.network, Tensor.float)),  # type: ignore[attr-defined]
    Case(
        "depth",
        depth_state,
        "dpt_hybrid-midas-501f0c75.pt",
        depth_peer,
        lambda depth: (depth.model.network, lambda rgb: rgb / 127.5 - 1),  # type: ignore[attr-defined]
    ),
)


def pictures(count: int, size: int) -> Tensor:
    """(count, 3, size, size) uint8 RGB, all different: shifted photographs, mirrored to any size."""
    photo = np.pad(data.astronaut(), ((0, max(0, size - 512)),) * 2 + ((0, 0),), mode="symmetric")[:size, :size]
    return torch.from_numpy(np.stack([np.roll(photo, 37 * n, axis=1) for n in range(count)])).permute(0, 3, 1, 2)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the device on a square matrix product: the best of five."""
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(6))


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of one call, to the end of what it started on the device."""
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def flops(network: nn.Module, pictures: Tensor) -> float:
    """FLOP for one picture."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(pictures[:1])
    return float(counter.get_total_flops())


def measure(case: Case, options: argparse.Namespace) -> dict[str, float | None]:
    """The columns of one row of the table."""
    rgb = pictures(options.batch + 1, options.size).to(options.device)
    params = {} if case.network is None else {"precision": options.precision}
    with tempfile.TemporaryDirectory() as folder:
        if case.state:
            torch.save(case.state(), Path(folder, case.file))
        weights = Weights(Path(folder), offline=True, say=lambda line: None)
        device = "cpu" if case.network is None else options.device
        annotator = load_annotator(case.name, device=device, params=params, weights=weights)
        peer = case.peer(Path(folder), options.device, options.size)
    one = rgb[0].permute(1, 2, 0).cpu().contiguous().numpy()
    turn = iter(range(10**9))

    def annotate() -> None:
        shifted = rgb[next(turn) % 2 :][: options.batch]  # never the batch of the call before
        annotator(shifted.to(annotator.device), [KEY] * options.batch).maps.cpu()

    works = {"annotator": annotate, "peer": lambda: peer(one)}
    gflop = share = None
    if case.network:
        network, feed = case.network(annotator)
        fed = feed(rgb[: options.batch].contiguous(memory_format=torch.channels_last))
        gflop = flops(network, fed) / 1e9

        def run() -> None:
            with torch.inference_mode(), autocast(precision, options.device):
                network(fed)

        precision = str(annotator.provenance["parameters"]["precision"])
        works["network"] = run
    rates = best(works, options)
    if gflop:
        share = gflop * 1e9 * rates["network"] / matmul_rate(options.device, DTYPES[precision])
    return {**rates, "gflop": gflop, "share": share}


def best(works: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, float]:
    """Pictures/s of each, by its fastest round; the rounds take turns and the first is for warming up."""
    counts = {name: 1 if name == "peer" else options.batch for name in works}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds + 1):
        for name, work in works.items():
            times[name].append(seconds(work, options.device))
    return {name: counts[name] / min(taken[1:]) for name, taken in times.items()}


def show(rows: dict[str, dict[str, float | None]], options: argparse.Namespace) -> None:
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    title = f"{options.device}{threads}, {options.size} x {options.size}, batch {options.batch}, {options.precision}"
    table = Table("annotator", "network/s", "annotator/s", "peer/s", "ratio", "GFLOP", "share", title=title)
    for name, row in rows.items():
        ratio = (row["annotator"] or 0) / (row["peer"] or 1)
        cells = (row.get("network"), row["annotator"], row["peer"], ratio, row["gflop"])
        share = f"{row['share']:.0%}" if row["share"] else ""
        table.add_row(name, *("" if cell is None else f"{cell:.3g}" for cell in cells), share)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Speed of the annotators against controlnet_aux")
    parser.add_argument("names", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512, help="side in pixels, a multiple of 64")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    cases = {case.name: case for case in CASES}
    show({name: measure(cases[name], options) for name in options.names}, options)


if __name__ == "__main__":
    main()
