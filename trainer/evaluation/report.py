"""What is left of an evaluation: scores of every row, grids of the worst and the best, JSON, and a page.

report/report.json   what was measured     report/rows.parquet   every row of every arm
report/worst.png     report/best.png       condition, generated picture, what was found in it, and the original
report/index.html    all of it; asks for nothing else
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from condprep.dataset.contact_sheet import SheetRow, contact_sheet
from condprep.errors import UsageError
from condprep.reporting import html
from condprep.reporting.thumbnails import thumbnail
from condprep.runtime.files import commit, commit_json, commit_text
from trainer.evaluation.result import Fidelity
from trainer.evaluation.scores import LOWER, NAMES
from trainer.evaluation.trial import ARMS

JSON, ROWS, PAGE = "report.json", "rows.parquet", "index.html"
SHOWN = 8  # rows of a grid
CELL = 256  # pixels of a picture in it
WIDTH = 2400  # pixels of a grid on the page, at most
TITLES = ("condition", "generated", "found in it", "original")


def check_folder(folder: Path) -> None:
    """Raises UsageError where a report would be written into a folder of other things."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON).exists()):
        raise UsageError(f"{folder} is not empty and holds no report; choose another -o")


def write_report(found: Fidelity, folder: Path) -> None:
    """All files of the report; report.json last, since it says that the others are there."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    commit(folder / ROWS, lambda partial: pq.write_table(rows_table(found), partial))
    order = ranking(found)
    for name, numbers in (("worst", order[:SHOWN]), ("best", order[::-1][:SHOWN])):
        write_grid(found, numbers, folder / f"{name}.png")
    commit_text(folder / PAGE, page(found, folder))
    commit_json(folder / JSON, plain(found.public()))


def rows_table(found: Fidelity) -> pa.Table:
    """A line for each row of each arm: arm, key of the row whose map was wanted, its caption, and every measure."""
    lines = [
        {"arm": name, "key": row.key, "caption": row.prompt, **scores}
        for name, arm in found.arms.items()
        for row, scores in zip(arm.rows, arm.scores)
    ]
    return pa.Table.from_pylist(lines)


def ranking(found: Fidelity) -> list[int]:
    """The rows of the ControlNet's arm by number, the worst first; rows without a score are left out."""
    scores = found.arms["controlnet"].values(found.measure)
    worse = -1 if found.measure in LOWER else 1
    known = [number for number, score in enumerate(scores) if not math.isnan(score)]
    return sorted(known, key=lambda number: worse * scores[number])


def write_grid(found: Fidelity, numbers: list[int], path: Path) -> None:
    """Condition, generated picture, its map and the original of those rows."""
    arm = found.arms["controlnet"]
    pairs = []
    for number in numbers:
        row = arm.rows[number]
        sides = (row.condition, arm.pictures[number], arm.made[number].pixels, row.original)
        score = f"{NAMES[found.measure]} {arm.scores[number][found.measure]:.3f}"
        pairs.append(SheetRow([Image.fromarray(np.ascontiguousarray(side)) for side in sides], [row.prompt, score]))
    contact_sheet(pairs, path, titles=TITLES, columns=2, cell=CELL)


def page(found: Fidelity, folder: Path) -> str:
    """The page as text; whatever comes from the dataset is escaped, and there is no script."""
    values = {
        "found": found,
        "columns": columns(found),
        "names": NAMES,
        "lower": LOWER,
        "arms": ARMS,
        "grids": {name: thumbnail((folder / f"{name}.png").read_bytes(), WIDTH).uri for name in ("worst", "best")},
        "settings": [(name, value) for name, value in found.settings.items() if value not in (None, "")],
    }
    return html.render("trainer.evaluation", values)


def columns(found: Fidelity) -> list[str]:
    """The measures that any arm has, the leading one first."""
    names = dict.fromkeys(name for scores in found.scores.values() for name in scores)
    return sorted(names, key=lambda name: name != found.measure)


def plain(value: Any) -> Any:
    """As strict JSON: a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(found: Fidelity) -> Iterator[str]:
    """The findings and notes, one after the other."""
    for finding in found.findings:
        yield f"{finding.name}: {finding.says}" + (f". Advice: {finding.advice}" if finding.advice else "")
    yield from found.notes
