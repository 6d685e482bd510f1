"""The columns of a manifest: from arrays to Arrow and back. Knows no settings' meaning."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
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


def read_columns(file: pq.ParquetFile, cells: int, temporal: TemporalSettings) -> dict[str, Any]:
    """What a manifest's file holds, by the names of `Manifest`; its pictures left out.

    Of the file, a row group is in memory at a time.

    Raises:
        ValueError: a column contradicts another, or lacks what it must have.
        pyarrow.ArrowException: the file is damaged.
    """
    names = [name for name in schema_of(cells).names if name != "picture"]
    groups: list[dict[str, NDArray[Any]]] = []
    samples = 0
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, names, use_threads=False)
        groups.append(_read_rows(table, samples, cells, temporal))
        samples += table.num_rows
    if not samples:
        raise ValueError("it holds no samples")
    found = {
        name: np.concatenate([group.pop(name) for group in groups]) for name in list(groups[0])
    }
    static = temporal.is_static(found["flow_px"], found["difference"])
    static[0] = False
    in_signals = ("flow_px", "difference", "saliency", "redundancy", "source")
    signals = Signals(static=static, **{name: found.pop(name) for name in in_signals})
    return {"signals": signals, **found}


def _read_rows(
    table: pa.Table, start: int, cells: int, temporal: TemporalSettings
) -> dict[str, NDArray[Any]]:
    """Some rows of a file as arrays, by their columns; `start` is the first one's number."""
    flat = {name: table[name].combine_chunks() for name in table.column_names}
    index = np.arange(start, start + table.num_rows)
    if flat.pop("sample").to_pylist() != index.tolist():
        raise ValueError("its samples are not 0, 1, 2, ...")
    first = index == 0
    difference = _cells(flat.pop("difference"), cells, null=first)
    no_flow = first | ~temporal.needs_flow(difference)
    return {
        "difference": difference,
        "flow_px": _cells(flat.pop("flow_px"), cells, null=no_flow),
        "saliency": _cells(flat.pop("saliency"), cells),
        "tier": _cells(flat.pop("tier"), cells),
        **{name: column.to_numpy() for name, column in flat.items()},
    }


def _cells(
    column: "pa.Array[Any]", cells: int, null: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Lists as [samples, cells]; 0 in the rows that are null, which must be these."""
    there: Any = slice(None) if null is None else ~null
    values = np.zeros((len(column), cells), column.type.value_type.to_pandas_dtype())
    lists = pc.list_flatten(column)  # leaves null rows out
    if len(lists) != values[there].size or lists.null_count:
        raise ValueError("it lacks signals of a sample that must have them")
    values[there] = lists.to_numpy().reshape(-1, cells)
    return values
