"""Peak memory of a build against its number of pictures: it must not grow.

    python -m bench memory [--small 2000] [--large 20000] [--threads 2]

The larger source links to the pictures of the smaller one, so that both hold the same kind of pictures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.build import make_pictures, measure


def linked(folder: Path, pictures: list[Path], count: int) -> Path:
    """`count` names for the pictures, in sub-folders of 1,000."""
    for number in range(count):
        link = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures[number % len(pictures)], link)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=20000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    table = Table("pictures", "pictures/s", "peak memory", "against the smaller")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "pictures", min(1000, arguments.small))
        pictures = sorted((folder / "pictures").iterdir())
        first = 0.0
        for count in (arguments.small, arguments.large):
            raw = linked(folder / f"raw{count}", pictures, count)
            result = measure("condprep", raw, folder / f"ds{count}", arguments.threads)
            first = first or result["peak_mb"]
            change = f"{result['peak_mb'] / first - 1:+.1%}"
            table.add_row(f"{count:,}", f"{result['pictures_per_second']:.1f}", f"{result['peak_mb']:.0f} MB", change)
    Console().print(table)
