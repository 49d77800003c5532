"""A process that forks the parts of a build at a URL and kills them, and whoever finishes them. Used by test_parts_at_urls.py.

    python tests/support/chaos_at_urls.py RAW URL SEED KILLS

Three parts run at once; each dies at a random request that writes, and is started again, until all have come to their end. So
does what makes the dataset of them; and there are builds until so many have been killed. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import s3fs  # noqa: F401  # once, for all processes that follow
from support.chaos_parts import PARTS, until_done

from condprep.building.build import build
from condprep.building.finish_parts import finish
from condprep.runtime import upload

OPTIONS: dict[str, Any] = {"resolution": 64, "shard_rows": 2, "validation": 0.4, "workers": 1}
MOST = 6  # requests until one of a part's dies


def writes(_: Path) -> Callable[[Callable[[], None]], None]:
    """Watches the requests that write, before each."""

    def watch(seen: Callable[[], None]) -> None:
        write = upload._write

        def counted(place: Any, do: Any) -> Any:
            seen()
            return write(place, do)

        upload._write = counted

    return watch


def main(raw: Path, url: str, seed: int, least: int) -> None:
    rng, kills, ends, builds = random.Random(seed), 0, set[int](), 0
    with TemporaryDirectory() as folder:
        while kills < least:
            ds = f"{url}/{builds}"
            parts = [partial(build, raw, ds, "canny", part=(n, PARTS), **OPTIONS) for n in range(PARTS)]
            for acts in (parts, [partial(finish, ds)]):
                died, statuses = until_done(acts, Path(folder) / "count", MOST, rng, writes)
                kills, ends = kills + died, ends | set(statuses)
            builds += 1
    print(json.dumps({"kills": kills, "ends": sorted(ends), "builds": builds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
