"""From pictures to two datasets in one go: `make demo`.

Takes a few of scikit-image's bundled pictures (people among them), builds a canny and an openpose dataset with the
command line, and draws a contact sheet of each: picture and map, side by side.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from condprep.dataset.inspect import summarize

DEMO = Path("demo")
CAPTIONS = {
    "astronaut": "an astronaut in an orange suit smiles in front of a flag and a model of a space shuttle",
    "camera": "a man in a coat looks through a camera on a tripod on a lawn",
    "cat": "a ginger cat looks at the camera",
    "coffee": "a cup of espresso on a wooden table",
    "rocket": "a rocket stands on its launch pad at night",
    "retina": "the retina of an eye with its blood vessels",
}


def main() -> None:
    raw = collect(DEMO / "raw")
    table, sheets = Table("dataset", "rows", "rejected", "size", "annotator", "licence of the maps"), []
    for annotator in ("canny", "openpose"):
        dataset, sheet = DEMO / annotator, DEMO / f"{annotator}.png"
        condprep("build", raw, "--annotator", annotator, "--out", dataset, "--overwrite")
        condprep("inspect", dataset, "--sheet", sheet)
        table.add_row(str(dataset), *described(dataset))
        sheets.append(sheet)
    Console().print(table)
    print("pictures beside their maps:", *sheets)


def collect(folder: Path) -> Path:
    """Pictures as PNG, captions in a text file beside each: the plainest source there is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in CAPTIONS.items():
        if not (folder / f"{name}.txt").exists():
            Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(caption)
    return folder


def condprep(*arguments: object) -> None:
    command = ["condprep", *map(str, arguments)]
    print("$", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def described(dataset: Path) -> list[str]:
    summary = summarize(dataset)
    made = (summary.provenance or {})["annotators"][0]
    return [
        str(sum(summary.rows.values())),
        str(sum((summary.rejects or {}).values())),
        ", ".join(summary.sizes or {}),
        ":".join(filter(None, (made["annotator"], made["variant"]))),
        made["licence"],
    ]


if __name__ == "__main__":
    main()
