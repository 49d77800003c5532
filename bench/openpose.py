"""OpenPose body: what the network costs, what comes after it, and controlnet_aux with the same weights, in one run.

    python -m bench openpose [--device cuda] [--threads 2] [--repeats 10] [--json]

The CMU network has random weights: its time does not depend on them. People are found by the small real network of
tests/support/openpose_dm14.py in the pictures of CONDPREP_SHARED. A time is the best of the repeats, in which the contestants
take turns: other work on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from support.openpose_dm14 import DM14, HEIGHT, PEOPLE
from support.openpose_reference import Reference

from bench.pose_quality import measure
from condprep.annotators.openpose import annotator
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.decode import decode_poses
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.inputs import network_input
from condprep.annotators.openpose.keypoints import Pose, column_value
from condprep.annotators.openpose.network import BodyNetwork
from condprep.annotators.openpose.operators import Frame
from condprep.types import Maps

SIZE = 512, 768
AFTER = "after the network: people, drawing, column, ms"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    pictures = [cv2.imread(str(path))[:, :, ::-1].copy() for path in sorted(PEOPLE.glob("*.jpg"))]
    with torch.inference_mode():
        figures = network_and_after(pictures, args.device, args.repeats)
        figures |= against_the_reference(pictures, args.device, args.repeats)
    print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k:58}{v:10.3f}" for k, v in figures.items()))


def network_and_after(pictures: list[np.ndarray], device: str, repeats: int) -> dict[str, float]:
    """Milliseconds a picture of 512 x 768: the CMU network in batches of 1 and 4, and all that we do after it."""
    rgb = as_batch([cv2.resize(picture, SIZE[::-1]) for picture in pictures], device)
    frame = Frame.of(*SIZE, annotator.HEIGHT)
    x = network_input(rgb, frame)
    networks = {
        name: BodyNetwork().to(device, dtype, memory_format=torch.channels_last) for name, dtype in DTYPES.items()
    }
    heatmaps, pafs = DM14().to(device)(x)

    def after() -> None:
        for bodies in decode_poses(heatmaps, pafs, frame):
            draw_bodies(bodies, *SIZE)
            column_value([Pose(body) for body in bodies])

    runs: dict[str, tuple[Callable[[], object], int]] = {
        f"network {name}, batch {batch}, ms": (partial(network, x[:batch].to(DTYPES[name])), batch)
        for name, network in networks.items()
        for batch in (1, 4)
    }
    runs["before the network: resize, pad, ms"] = partial(network_input, rgb, frame), len(rgb)
    runs[AFTER] = after, len(rgb)
    figures = best_of(runs, device, repeats)
    for name in networks:
        figures[f"after the network, % of {name}, batch 4"] = (
            100 * figures[AFTER] / figures[f"network {name}, batch 4, ms"]
        )
    return figures


class Peer:
    """controlnet_aux's body detector and drawing around the small network, called as our annotators are."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._find = Reference(DM14(), scale=1.0, device=device)

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        picture = rgb[0].permute(1, 2, 0).cpu().numpy()
        people = self._find(picture)
        drawn = self._find.draw(people, *picture.shape[:2])
        return Maps(
            torch.from_numpy(drawn).permute(2, 0, 1)[None],
            {"keypoints": [column_value([Pose(body) for body in people])]},
        )


def against_the_reference(pictures: list[np.ndarray], device: str, repeats: int) -> dict[str, float]:
    """From picture to map, with the same small network in both: milliseconds a picture, their ratio, COCO OKS AP."""
    batches = [as_batch([picture], device) for picture in pictures]
    contestants = {"condprep": Openpose(DM14(), device=device, height=HEIGHT), "controlnet_aux": Peer(device)}
    runs = {name: (partial(each, contestant, batches), len(batches)) for name, contestant in contestants.items()}
    times = best_of(runs, device, repeats)
    figures = {f"DM14 end to end, {name}, ms": time for name, time in times.items()}
    figures["DM14 end to end, times as fast"] = times["controlnet_aux"] / times["condprep"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(PEOPLE / "test_coco.json"))
    return figures | {f"COCO OKS AP, {name}": measure(one, PEOPLE, truth).ap for name, one in contestants.items()}


def each(annotator: Callable[[torch.Tensor, Sequence[str]], Maps], batches: list[torch.Tensor]) -> None:
    for batch in batches:
        annotator(batch, [""] * len(batch))


def best_of(runs: Mapping[str, tuple[Callable[[], object], int]], device: str, repeats: int) -> dict[str, float]:
    """The shortest time of each run in milliseconds a picture; they take turns, after one round to warm up."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(repeats + 1):
        for name, (run, count) in runs.items():
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:
                best[name] = min(best[name], 1000 * (time.perf_counter() - start) / count)
    return best


def as_batch(pictures: list[np.ndarray], device: str) -> torch.Tensor:
    """Pictures (H, W, 3) -> (B, 3, H, W) on the device."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(device)
