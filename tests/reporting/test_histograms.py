"""Histograms of a report: no row is left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from condprep.reporting.histograms import histograms


def test_histograms_count_every_row(tmp_path: Path) -> None:
    """Each histogram's bars add up to the rows that have a value, whatever the values are."""
    rng = np.random.default_rng(0)
    width, height = rng.integers(1, 3000, (2, 500))
    scores: dict[str, Any] = {"row": range(500), "image_width": width, "image_height": height}
    scores |= {"tokens": [None, *rng.integers(2, 400, 499).tolist()], "drawn": rng.random(500)}
    pq.write_table(pa.table(scores), tmp_path / "verify.parquet")
    found = histograms(tmp_path / "verify.parquet", Counter({0: 3, 2: 4}))
    assert {one.title: sum(bar.rows for bar in one.bars) for one in found} == {
        **{"Size": 500, "Aspect": 500, "Edge density": 500, "Caption length": 499},
        "People in a picture": 7,
    }
    assert all(len(one.bars) <= 22 for one in found)


@pytest.mark.parametrize("values", [[7.0], [7.0, 7.0], [0.0, 1.0], [0.25, 0.25], [2.0, 77.0, 78.0], [0.1, 0.3, 0.9]])
def test_a_histogram_of_few_values_counts_them(tmp_path: Path, values: list[float]) -> None:
    """One value, two, far apart or equal: every row is in a bar."""
    pq.write_table(pa.table({"row": range(len(values)), "drawn": values}), tmp_path / "verify.parquet")
    (found,) = histograms(tmp_path / "verify.parquet", None)
    assert sum(bar.rows for bar in found.bars) == len(values)
