"""Every row looked at before step 1, as `condprep verify` judges structure: without decoding a picture, in seconds.

What was found is kept in the cache's folder under the stamp of the files, so a second run looks at nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, cast

import numpy as np

from condprep.dataset.pairs.open import Pair
from condprep.errors import Rejected
from condprep.images.decode import header
from condprep.images.geometry import Size
from condprep.runtime.concurrency import ordered_map, usable_cores
from condprep.runtime.files import commit_text
from condprep.runtime.own import make_folder
from condprep.verification import structure
from condprep.verification.check import Context
from condprep.verification.opened import Opened, OpenedPair
from condprep.verification.tokens import TokenCounter
from trainer.data.rows import Row, Rows
from trainer.data.tables import refuse
from trainer.errors import DataError

SCANNED = 2  # the version of what is looked at: a scan of another one is not believed


@dataclass(frozen=True)
class Scan:
    """What is known of all rows."""

    fingerprint: str  # sha256 of every row's picture, map, captions and keypoints, in their order
    sizes: list[Size]  # (height, width) of each picture, pixels


def scan(
    rows: Rows, path: str, kept: Path, progress: Callable[[int, int], None] = lambda *_: None, captioned: bool = True
) -> Scan:
    """Look at every row. path: the dataset, for messages; kept: the folder of what is known.

    Raises DataError that shows the first rows which verify would call an error, or, where they are to be captioned, when none of them is.
    """
    depends = [SCANNED, rows.stamp, rows.split, len(rows), rows.names.keypoints, *([rows.part] if rows.part else [])]
    name = sha256(json.dumps(depends).encode()).hexdigest()[:16]
    file = kept / f"scan-{name}.json"
    if known := _known(file, len(rows)):
        return known
    found = _measure_rows(rows, path, progress, captioned)
    make_folder(kept)
    commit_text(file, _written(found))
    return found


def _written(found: Scan) -> str:
    text = json.dumps({"fingerprint": found.fingerprint, "sizes": found.sizes})
    return f"{text}\n{sha256(text.encode()).hexdigest()}\n"


def _known(file: Path, rows: int) -> Scan | None:
    """What was written down; None where it was not, or not like this: then the rows are looked at again."""
    try:
        text = file.read_text(encoding="utf-8")
        known = json.loads(text.partition("\n")[0])
        found = Scan(known["fingerprint"], [(h, w) for h, w in known["sizes"]])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if text == _written(found) and len(found.sizes) == rows else None


def _measure_rows(rows: Rows, path: str, progress: Callable[[int, int], None], captioned: bool) -> Scan:
    digest, sizes, wrong, found = sha256(), [], [], False
    with ThreadPoolExecutor(usable_cores()) as pool:
        for seen, (scores, content) in enumerate(ordered_map(pool, _MeasureRow(rows), range(len(rows)), ahead=64), 1):
            wrong += [(scores["key"], reason) for reason in scores["wrong"][:1]]
            digest.update(content)
            sizes.append((scores["image_height"], scores["image_width"]))
            found = found or scores["caption"] == "text"
            progress(seen, len(rows))
    refuse(path, wrong)
    if captioned and not found:
        raise DataError(f"{path}: every caption of split {rows.split!r} is empty; a ControlNet needs text to steer")
    return Scan(digest.hexdigest(), sizes)


def _error(check: Any, scores: Mapping[str, Any]) -> str | None:
    return cast("str | None", check(scores)) if check.severity == "error" else None


@dataclass(frozen=True)
class _MeasureRow:
    """Measures one row, in a thread."""

    rows: Rows
    context = Context(said=None, captioned=True, keyed=False, tokens=TokenCounter(None))

    def __call__(self, number: int) -> tuple[dict[str, Any], bytes]:
        try:
            row = self.rows[number]
        except TypeError:  # a null where a picture or a caption should be
            row = Row(f"{self.rows.split}:{number}", b"", (b"",), ())
        pair, image = Pair(number, row.key, caption=list(row.captions)), _opened(row.image)
        each = [structure.measure(OpenedPair(pair, image, _opened(one)), self.context) for one in row.conditions]
        reasons = [
            reason for scores in each for check in structure.STRUCTURE.checks if (reason := _error(check, scores))
        ]
        return {**each[0], "key": row.key, "wrong": [*reasons, *_mask_problem(row, image)]}, _digest(row)


def _mask_problem(row: Row, image: Opened) -> list[str]:
    """What is wrong with a row's mask; nothing where it has none to have."""
    if row.mask is None:
        return []
    mask = _opened(row.mask)
    if mask.problem or mask.rgb is None or image.rgb is None:
        return [f"its mask cannot be read: {mask.problem}"] if mask.problem else []
    (height, width), (h, w) = image.rgb.shape[:2], mask.rgb.shape[:2]
    return [] if (height, width) == (h, w) else [f"its mask has {w} x {h} px, the picture {width} x {height}"]


def _opened(data: bytes) -> Opened:
    """As decoded, but with a picture that has only a shape: structure looks at nothing else."""
    try:
        head = header(data)
    except Rejected as rejected:
        return Opened(problem=rejected.reason)
    size = head.size[::-1] if head.orientation > 4 else head.size
    return Opened(head, np.broadcast_to(np.uint8(0), (*size, 3)))


def _digest(row: Row) -> bytes:
    captions = "\0".join(map(str, (*row.captions, *row.columns))).encode("utf-8", "surrogatepass")
    keypoints = json.dumps(row.keypoints, sort_keys=True).encode() if row.keypoints else b""
    parts = (row.image, *row.conditions, captions, keypoints, *([row.mask] if row.mask is not None else []))
    return b"".join(blake2b(part, digest_size=16).digest() for part in parts)
