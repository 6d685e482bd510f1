"""Columns of numbers to one small frame: rows of which most are like the row above.

What the tables and the index of a file are packed by. Knows numpy, and no meaning of a column.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachefmt.codecs.symbols import DecodeError, compress, decompress, shuffle, unshuffle

MOST_BYTES = 1 << 29
"""Of all columns of a frame: tables of 20 million tokens. A frame of 16 KB could claim as many."""
_LEVEL = 19


def pack(columns: Sequence[NDArray[Any]]) -> bytes:
    """One frame of columns, whose first axis are rows."""
    return compress([b"".join(map(_deltas, columns))], _LEVEL)


def unpack(
    data: bytes, name: str, columns: Sequence[tuple[np.dtype[Any], tuple[int, ...]]]
) -> list[NDArray[Any]]:
    """What `pack` got, by dtype and shape of each column; not to be written to.

    Raises:
        ValueError: it is no frame of exactly these columns. `name` is what errors call them.
    """
    sizes = [math.prod(shape) * dtype.itemsize for dtype, shape in columns]
    if sum(sizes) > MOST_BYTES:
        raise ValueError(f"{name}: {sum(sizes)} bytes of columns, expected {MOST_BYTES} at most")
    try:
        streams = decompress(data, sizes)
    except DecodeError as error:
        raise ValueError(f"{name}: {error}") from error
    found = []
    for (dtype, shape), stream in zip(columns, streams, strict=True):
        found.append(_sums(stream, dtype, shape))
        found[-1].flags.writeable = False
    return found


def _deltas(column: NDArray[Any]) -> bytes:
    """Differences of the bits of a column's rows, 0, -1, 1, -2, ... as 0, 1, 2, 3, ...

    Of all numbers of the column the first byte, then of all the second, ...
    """
    bits = np.ascontiguousarray(column).view(_signed(column.dtype))
    with np.errstate(over="ignore"):  # differences wrap around
        by = np.diff(bits, axis=0, prepend=np.zeros_like(bits[:1]))
        folded = (by << 1) ^ (by >> (8 * by.itemsize - 1))
    return shuffle(folded.reshape(-1).view(np.uint8), by.itemsize)


def _sums(stream: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """What `_deltas` got."""
    folded = unshuffle(stream, dtype.itemsize).view(f"<u{dtype.itemsize}")
    by = (folded >> 1).view(_signed(dtype)) ^ -(folded & 1).view(_signed(dtype))
    return np.cumsum(by.reshape(shape), axis=0, dtype=by.dtype).view(dtype)


def _signed(dtype: np.dtype[Any]) -> str:
    return f"<i{dtype.itemsize}"
