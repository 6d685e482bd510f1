"""The columns of a manifest: from arrays to Arrow and back. Knows no settings' meaning."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.analysis.signals import Signals
from batch.analysis.temporal import TemporalSettings


def schema_of(cells: int) -> pa.Schema:
    """Names and types of the columns of a manifest with so many cells a sample."""
    floats, codes = pa.list_(pa.float32(), cells), pa.list_(pa.uint8(), cells)
    fields: list[pa.Field[Any]] = [
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("pts_s", pa.float64(), nullable=False),
        pa.field("last_pts_s", pa.float64(), nullable=False),
        pa.field("redundancy", pa.float32(), nullable=False),
        pa.field("source", pa.int32(), nullable=False),
        pa.field("flow_px", floats),
        pa.field("difference", floats),
        pa.field("saliency", floats, nullable=False),
        pa.field("tier", codes, nullable=False),
        pa.field("picture", pa.binary()),
    ]
    return pa.schema(fields)


def list_column(
    values: NDArray[Any], null: NDArray[np.bool_] | None = None
) -> "pa.FixedSizeListArray[Any, Any]":
    """A column of lists from [samples, cells]; `null` says which rows have none."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if null is None else pa.array(null)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def read_columns(table: pa.Table, cells: int, temporal: TemporalSettings) -> dict[str, Any]:
    """What a manifest's table holds, by the names of `Manifest`; its pictures left out.

    Raises:
        ValueError: a column contradicts another, or lacks what it must have.
    """
    samples = table.num_rows
    flat = {name: table[name].combine_chunks() for name in table.column_names}
    if flat["sample"].to_pylist() != list(range(samples)):
        raise ValueError("its samples are not 0, 1, 2, ...")
    lists = {name: _cells(flat[name], cells) for name in ("saliency", "tier")}
    first = np.arange(samples) == 0
    difference = _cells(flat["difference"], cells, null=first)
    no_flow = first | ~temporal.needs_flow(difference)
    flow_px = _cells(flat["flow_px"], cells, null=no_flow)
    static = temporal.is_static(flow_px, difference)
    static[0] = False
    signals = Signals(
        flow_px=flow_px,
        difference=difference,
        saliency=lists["saliency"],
        static=static,
        redundancy=flat["redundancy"].to_numpy(),
        source=flat["source"].to_numpy(),
    )
    return {
        "frame": flat["frame"].to_numpy(),
        "pts_s": flat["pts_s"].to_numpy(),
        "last_pts_s": flat["last_pts_s"].to_numpy(),
        "signals": signals,
        "tier": lists["tier"],
    }


def _cells(
    column: "pa.Array[Any]", cells: int, null: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Lists as [samples, cells]; 0 in the rows that are null, which must be these."""
    there: Any = slice(None) if null is None else ~null
    values = np.zeros((len(column), cells), column.type.value_type.to_pandas_dtype())
    lists = pc.list_flatten(column).to_numpy(zero_copy_only=False)  # leaves null rows out
    if lists.size != values[there].size:
        raise ValueError("it lacks signals of a sample that must have them")
    values[there] = lists.reshape(-1, cells)
    return values
