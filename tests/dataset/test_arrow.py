"""Rows become Arrow as pyarrow makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condprep.dataset.arrow import IMAGE, array, record_batch

NUMBERS = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
}
FLAT = NUMBERS | {pa.string(): st.text(), pa.binary(): st.binary(), pa.bool_(): st.booleans()}
KINDS = (
    FLAT
    | {pa.list_(kind): st.lists(values, max_size=4) for kind, values in FLAT.items()}
    | {
        IMAGE: st.fixed_dictionaries({"bytes": st.binary(), "path": st.none() | st.text()}),
        pa.struct({"x": pa.float32()}): st.fixed_dictionaries({"x": st.floats(width=32, allow_nan=False)}),
    }
)


@settings(deadline=None)  # the first look at pyarrow imports pandas
@given(st.data(), st.sampled_from(list(KINDS)), st.booleans())
def test_an_array_is_pyarrow_s(data: st.DataObject, kind: pa.DataType, holes: bool) -> None:
    """For every type that a dataset has, with and without missing values: the same values, sound in every buffer."""
    values = data.draw(st.lists(KINDS[kind] | st.none() if holes else KINDS[kind], max_size=20))
    ours = array(values, kind)
    ours.validate(full=True)
    assert ours.equals(pa.array(values, kind))


@given(
    st.lists(
        st.tuples(st.binary(max_size=50), st.text(max_size=10), st.one_of(st.none(), st.integers(0, 9))), min_size=1
    )
)
def test_rows_are_stored_as_pyarrow_stores_them(values: list[tuple[bytes, str, int | None]]) -> None:
    """A record batch holds the same values as the one that pyarrow makes of the rows."""
    schema = pa.schema({"image": IMAGE, "text": pa.string(), "number": pa.int64()})
    rows = [{"image": {"bytes": data, "path": None}, "text": text, "number": number} for data, text, number in values]
    ours = record_batch(rows, schema)
    ours.validate(full=True)
    assert ours.equals(pa.RecordBatch.from_pylist(rows, schema))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([2**40], pa.int32()),
        ([np.int64(2**40)], pa.int32()),
        (["a"], pa.int64()),
        ([1], pa.string()),
    ],
)
def test_a_value_of_another_kind_is_refused(values: list[Any], kind: pa.DataType) -> None:
    """What an annotator returns beside its map is never stored as something else."""
    with pytest.raises((pa.ArrowException, OverflowError)):
        array(values, kind)
