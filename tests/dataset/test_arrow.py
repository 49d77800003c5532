"""Rows become Arrow as pyarrow makes them."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condprep.dataset.arrow import IMAGE, array, record_batch
from condprep.runtime.arrow_messages import stream_rows

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


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_rows_of_a_stream_are_counted_without_reading_them(compression: str | None) -> None:
    """By the batches' metadata, with dictionaries between them; what is skipped may be anything, what is no stream is told."""
    made, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=compression)
    table = pa.table({"name": pa.array(["a", "b"] * 250).dictionary_encode(), "bytes": [b"?" * 1000] * 500})
    with pa.ipc.new_stream(made, table.schema, options=options) as sink:
        for batch in table.to_batches(max_chunksize=120):
            sink.write_batch(batch)
    stream = made.getvalue()
    assert stream_rows(io.BytesIO(stream)) == 500
    assert stream_rows(io.BytesIO(stream.replace(b"?" * 1000, b"!" * 1000))) == 500
    for wrong in (b"no stream at all", stream[8:], stream[:4] + b"\xff\xff\xff\x7f" + stream[8:]):
        with pytest.raises(pa.ArrowInvalid, match="no Arrow stream"):
            stream_rows(io.BytesIO(wrong))


@settings(max_examples=200)
@given(st.data())
def test_counting_rows_ends_whatever_the_bytes(data: st.DataObject) -> None:
    """A number that is turned into another one, also a negative length that would lead back, never makes it go round in circles."""
    made = io.BytesIO()
    table = pa.table({"number": list(range(50))})
    with pa.ipc.new_stream(made, table.schema) as sink:
        sink.write_table(table, max_chunksize=10)
    content = bytearray(made.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(pa.ArrowInvalid):
        assert stream_rows(io.BytesIO(bytes(content))) >= 0
