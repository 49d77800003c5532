"""How well pose annotators find annotated people: COCO's keypoint AP (OKS) and seconds a picture.

    python -m bench pose-quality [openpose:blaze ...] [--set threshold=0.3] [--folder DIR] [--device cpu] [--threads 2]

DIR holds pictures and one COCO keypoint file (*.json); default: the people of the shared test data. What is scored is the
`keypoints` column, so a joint that is not drawn counts as wrong; a person's score is the mean confidence of the joints.
A dozen people tell a good annotator from a bad one and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from bench import SHARED
from condprep import load_annotator
from condprep.annotators.openpose.keypoints import JOINTS, Body, bodies
from condprep.annotators.protocol import Annotator


@dataclass(frozen=True)
class Quality:
    """Scores of one annotator, 0..1, and its speed."""

    people: int  # that it found
    ap: float  # mean over OKS 0.50, 0.55 ... 0.95
    ap50: float
    ap75: float
    recall: float
    seconds: float  # a picture, alone in its batch, mean


def measure(annotator: Annotator, folder: Path, truth: COCO) -> Quality:
    """Annotate every picture of the annotations and score what comes out."""
    results: list[dict[str, Any]] = []
    seconds = []
    for image in truth.loadImgs(truth.getImgIds()):
        rgb = load(folder / image["file_name"]).to(annotator.device)
        annotator(rgb, [""])  # the first call of a size also allocates
        start = time.perf_counter()
        value = annotator(rgb, [""]).columns["keypoints"][0]
        seconds.append(time.perf_counter() - start)
        results += [coco_result(body, image["id"], truth) for body in bodies(value)]
    if not results:
        return Quality(0, 0, 0, 0, 0, float(np.mean(seconds)))
    with contextlib.redirect_stdout(io.StringIO()):
        scores = COCOeval(truth, truth.loadRes(results), "keypoints")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    ap, ap50, ap75, recall = (float(scores.stats[i]) for i in (0, 1, 2, 5))
    return Quality(len(results), ap, ap50, ap75, recall, float(np.mean(seconds)))


def load(path: Path) -> torch.Tensor:
    """(1, 3, H, W) uint8 RGB."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


def coco_result(body: Body, image_id: int, truth: COCO) -> dict[str, Any]:
    """A body (18, 3) as COCO's result format has it, in COCO's order of joints."""
    (category,) = truth.loadCats(truth.getCatIds(catNms=["person"]))
    order = [JOINTS.index(name) for name in category["keypoints"]]
    score, keypoints = float(body[:, 2].mean()), body[order].ravel().tolist()
    return {"image_id": image_id, "category_id": category["id"], "keypoints": keypoints, "score": score}


def report(qualities: dict[str, Quality], people: int) -> Table:
    table = Table("annotator", "people", "AP", "AP50", "AP75", "AR", "s / picture")
    for name, q in qualities.items():
        scores = [f"{score:.3f}" for score in (q.ap, q.ap50, q.ap75, q.recall)]
        table.add_row(name, f"{q.people} of {people}", *scores, f"{q.seconds:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotators", nargs="*", default=["openpose:blaze"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the annotators")
    parser.add_argument("--folder", type=Path, default=SHARED / "data" / "people")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    params = dict(pair.split("=", 1) for pair in options.set)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(next(options.folder.glob("*.json"))))
    qualities = {
        name: measure(load_annotator(name, device=options.device, params=params), options.folder, truth)
        for name in options.annotators
    }
    people = sum(bool(a["num_keypoints"]) for a in truth.loadAnns(truth.getAnnIds(iscrowd=False)))
    Console().print(report(qualities, people))
