"""Speed of the annotators against controlnet_aux's detectors, in one run on the same pictures.

    python -m bench annotators [hed depth ...] [--device cuda] [--size 512] [--batch 4] [--precision auto] [--rounds 3]

Both sides hold the same weights: random ones, which do not change the speed, and for openpose the small real network of
tests/support/openpose_dm14.py from CONDPREP_SHARED, since what comes after the network depends on people being found. The parts
are timed in turn, `rounds` times, and the fastest round counts, so that a busy machine spoils a round and not a ratio.

network     pictures/s of the network alone, from the tensor that it takes
annotator   pictures/s from (B, 3, H, W) uint8 on the device to the maps on the host
peer        pictures/s of the detector, one picture a call, from and to numpy
ratio       annotator / peer
GFLOP       of the network for one picture, as torch.utils.flop_counter counts them
share       of the roofline: GFLOP x network / the device's own rate on a square matrix product in that precision

canny's both sides encode as well: ours the PNG of one bit that a build stores, the peer's what `datasets` stores of its
map. The last line has all of them on one batch that is copied once: its ratio is the sum of the times that they take one
by one, copies included, over the time that they take together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE
from support.openpose_reference import Reference
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from condprep import load_annotator
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.inputs import network_input
from condprep.annotators.openpose.operators import Frame
from condprep.annotators.precision import DTYPES, autocast, resolve_precision
from condprep.annotators.protocol import Annotator
from condprep.images.encode import encode_map
from condprep.weights.find import Weights

KEY = "0" * 64
SPARE = 7  # pictures more than a batch, so that
TURN = count()  # every call has others
Detector = Callable[[np.ndarray], Any]  # (H, W, 3) uint8 RGB -> map


@dataclass(frozen=True)
class Pair:
    """An annotator and its peer, ready to run."""

    annotator: Annotator
    peer: Detector
    network: nn.Module | None = None
    feed: Callable[[Tensor], Tensor] | None = None  # (B, 3, H, W) uint8 RGB -> what the network is fed
    precision: str = "fp32"  # in which it computes, by autocast
    finish: Callable[[Tensor], Any] | None = None  # what else is timed with the annotator, given its maps


def canny(options: argparse.Namespace) -> Pair:
    from controlnet_aux import CannyDetector
    from datasets import Image as Stored

    detector = CannyDetector()

    def peer(rgb: np.ndarray) -> Any:
        edges = detector(rgb, detect_resolution=options.size, image_resolution=options.size, output_type="pil")
        return Stored().encode_example(edges)

    def encode(maps: Tensor) -> list[bytes]:
        return [encode_map(edges, binary=True) for edges in maps[:, 0].numpy()]

    return Pair(load_annotator("canny"), peer, finish=encode)


def hed(options: argparse.Namespace) -> Pair:
    from controlnet_aux import HEDdetector
    from controlnet_aux.hed import ControlNetHED_Apache2

    with saved("ControlNetHED.pth", ControlNetHED_Apache2()) as folder:
        annotator: Any = load(folder, "hed", options)
        detector = HEDdetector.from_pretrained(folder).to(options.device)
    size = options.size
    return Pair(
        annotator,
        lambda rgb: detector(rgb, size, size, output_type="np"),
        annotator.network,
        lambda rgb: rgb.to(torch.float32, memory_format=torch.channels_last),
        annotator.precision,
    )


def depth(options: argparse.Namespace) -> Pair:
    from controlnet_aux import MidasDetector
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    with saved("dpt_hybrid-midas-501f0c75.pt", DPTDepthModel(backbone="vitb_rn50_384")) as folder:
        annotator: Any = load(folder, "depth", options)
        detector = MidasDetector.from_pretrained(folder).to(options.device)
    size = options.size
    return Pair(
        annotator,
        lambda rgb: detector(rgb, detect_resolution=size, image_resolution=size),
        annotator.model.network,
        lambda rgb: rgb.to(torch.float32, memory_format=torch.channels_last) / 127.5 - 1,
        annotator.model.precision,
    )


def openpose(options: argparse.Namespace) -> Pair:
    precision = resolve_precision(options.precision, options.device, "openpose")
    network = DM14()
    annotator = Openpose(network, device=options.device, precision=precision, height=HEIGHT)
    reference = Reference(DM14(), scale=1.0, device=options.device)
    frame = Frame.of(options.size, options.size, HEIGHT)
    return Pair(
        annotator,
        lambda rgb: reference.draw(reference(rgb), *rgb.shape[:2]),
        network,
        lambda rgb: network_input(rgb, frame).to(DTYPES[precision]),
    )


CASES = {"canny": canny, "hed": hed, "depth": depth, "openpose": openpose}


@contextmanager
def saved(name: str, network: nn.Module) -> Iterator[Path]:
    """A folder that has the network's weights under that name."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder, name))
        yield Path(folder)


def load(folder: Path, name: str, options: argparse.Namespace) -> Annotator:
    weights = Weights(folder, offline=True, say=lambda line: None)
    return load_annotator(name, device=options.device, params={"precision": options.precision}, weights=weights)


def pictures(number: int, size: int) -> Tensor:
    """(number, 3, size, size) uint8 RGB, all different: shifted photographs of people, where they are at hand."""
    found = sorted(PEOPLE.glob("*.jpg"))
    photo = np.asarray(Image.open(found[0]).convert("RGB")) if found else data.astronaut()
    photo = np.asarray(Image.fromarray(photo).resize((size, size)))
    return torch.from_numpy(np.stack([np.roll(photo, 37 * n, axis=1) for n in range(number)])).permute(0, 3, 1, 2)


def matmul_rate(device: str, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of the device on a square matrix product: the best of six."""
    side = side or (2048 if device == "cpu" else 8192)
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


def measure_pair(pair: Pair, options: argparse.Namespace) -> dict[str, float | None]:
    """The columns of one row of the table."""
    rgb = pictures(options.batch + SPARE, options.size)
    one = rgb[0].permute(1, 2, 0).contiguous().numpy()
    works = {"annotator": annotating([pair], rgb, options), "peer": lambda: pair.peer(one)}
    gflop = share = None
    if pair.network and pair.feed:
        network, fed = pair.network, pair.feed(rgb[: options.batch].to(options.device))
        gflop = flops(network, fed) / 1e9

        def run() -> None:
            with torch.inference_mode(), autocast(pair.precision, options.device):
                network(fed)

        works["network"] = run
    rates = best(works, options)
    if gflop:
        dtype = fed.dtype if pair.precision == "fp32" else DTYPES[pair.precision]
        share = gflop * 1e9 * rates["network"] / matmul_rate(options.device, dtype)
    return {**rates, "ratio": rates["annotator"] / rates["peer"], "gflop": gflop, "share": share}


def annotating(pairs: Sequence[Pair], rgb: Tensor, options: argparse.Namespace) -> Callable[[], None]:
    """One batch through all annotators: copied to the device once, and their maps back."""

    def annotate() -> None:
        batch = rgb[next(TURN) % SPARE :][: options.batch]  # never the batch of a call shortly before
        there = batch.to(options.device)
        for pair in pairs:
            maps = pair.annotator(there.to(pair.annotator.device), [KEY] * options.batch).maps.cpu()
            if pair.finish:
                pair.finish(maps)

    return annotate


def together(pairs: Sequence[Pair], options: argparse.Namespace) -> dict[str, float | None]:
    """The row of all annotators on one batch, against one after the other."""
    rgb = pictures(options.batch + SPARE, options.size)
    single = {str(n): annotating([pair], rgb, options) for n, pair in enumerate(pairs)}
    rates = best({"annotator": annotating(pairs, rgb, options), **single}, options)
    rate = rates.pop("annotator")
    return {"annotator": rate, "ratio": rate * sum(1 / single_rate for single_rate in rates.values())}


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
    columns = ("network", "annotator", "peer", "ratio", "gflop", "share")
    heads = ("network/s", "annotator/s", "peer/s", "ratio", "GFLOP", "share")
    table = Table("annotator", *heads, title=title)
    for name, row in rows.items():
        cells = [row.get(column) for column in columns]
        shown = ["" if cell is None else f"{cell:.3g}" for cell in cells[:-1]]
        table.add_row(name, *shown, "" if cells[-1] is None else f"{cells[-1]:.0%}")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    there = [name for name in CASES if name != "openpose" or FOLDER.is_dir()]
    parser = argparse.ArgumentParser(description="Speed of the annotators against controlnet_aux")
    parser.add_argument("names", nargs="*", default=there, help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512, help="side in pixels, a multiple of 64")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    pairs = {name: CASES[name](options) for name in options.names}
    rows = {name: measure_pair(pair, options) for name, pair in pairs.items()}
    if len(pairs) > 1:
        rows["together"] = together(list(pairs.values()), options)
    show(rows, options)
