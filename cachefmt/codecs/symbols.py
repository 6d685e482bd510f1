"""Small whole numbers to few bytes: planes of packed symbols in one zstandard frame.

What a transform leaves are matrices of whole numbers whose columns come in order of energy: first
columns hold tens, most others hold -1, 0 and 1, the last ones only zeros. zstandard's Huffman codes
spend a bit a byte at least, so several small symbols of a row share a byte: that is 2 % above the
entropy of columns on a real language model's keys and values (int8 alone: 25 %), and decodes by
table look-up. Knows neither keys nor values.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

LARGEST = 2**23
"""Magnitude below which symbols must be: float32 holds all these numbers exactly."""


class DecodeError(ValueError):
    """Bytes that no encoder wrote."""


class Alphabet(NamedTuple):
    """How the symbols of some columns share bytes.

    `base` ** `per_byte` <= 256. A symbol of magnitude (base - 1) / 2 saturates: what it is larger
    by follows among the escapes. Columns of a mean magnitude of `least_mean` use it.
    """

    base: int
    per_byte: int
    least_mean: float

    @property
    def largest(self) -> int:
        return (self.base - 1) // 2

    def size(self, symbols: int) -> int:
        """Bytes of so many symbols."""
        return -(-symbols // self.per_byte)


ALPHABETS = (
    Alphabet(255, 1, 2.5),
    Alphabet(15, 2, 0.8),
    Alphabet(5, 3, 0.35),
    Alphabet(3, 5, 0.05),
    Alphabet(3, 5, 0.0),  # nearly always 0: a stream, so a Huffman code, of its own
)
"""In the order in which columns use them. Source of `least_mean`: measured on prose and films."""
SMALL = np.arange(-127, 128, dtype=np.int32)
"""All symbols of all alphabets, without those that follow among the escapes."""

Number = TypeVar("Number", np.int32, np.int8, np.float32)

_HEAD = struct.Struct(f"<{len(ALPHABETS)}HI")
HEAD_BYTES = _HEAD.size
_ESCAPE = np.dtype("<u4")
_LEAST_MATCH = 6
"""Bytes. Shorter ones break up what a Huffman code takes: blocks of films are 1 % larger with
the 3 of level 19, those of prose 0.4 % smaller."""
_FRAME_BYTES = 256
_MOST_EXPANSION = 1 << 15
"""Bytes that a byte of a frame can stand for: a block of 128 KiB in 4 bytes."""


class Head(NamedTuple):
    """What is said of a matrix before its streams.

    `ends`: of each alphabet the column that is the first not to use it; columns after the last of
    them are zeros. `escapes`: how many there are.
    """

    ends: tuple[int, ...]
    escapes: int

    def to_bytes(self) -> bytes:
        return _HEAD.pack(*self.ends, self.escapes)

    @classmethod
    def from_bytes(cls, data: bytes, columns: int) -> "Head":
        """Read `HEAD_BYTES` bytes about a matrix of `columns`, or fewer that are stored."""
        *ends, escapes = _HEAD.unpack(data)
        if list(ends) != sorted(ends) or ends[-1] > columns:
            raise DecodeError(f"columns end at {ends}, expected them rising up to {columns}")
        return cls(tuple(ends), escapes)

    def stream_sizes(self, rows: int) -> list[int]:
        """Bytes of each stream of a matrix with so many rows, that of the escapes last."""
        starts = (0, *self.ends[:-1])
        sizes = [
            alphabet.size(rows * (end - start))
            for alphabet, start, end in zip(ALPHABETS, starts, self.ends, strict=True)
        ]
        if self.escapes > rows * self.ends[-1]:
            raise DecodeError(f"{self.escapes} escapes among {rows * self.ends[-1]} symbols")
        return [*sizes, self.escapes * _ESCAPE.itemsize]


def split(symbols: NDArray[np.int32]) -> tuple[Head, list[bytes]]:
    """A matrix [rows, columns] as what is said of it and its streams.

    Symbols of a row stand together: where one of them is large, others are.

    ValueError for a magnitude of LARGEST or more.
    """
    magnitude = np.abs(symbols)
    if magnitude.max(initial=0) >= LARGEST:
        raise ValueError(f"symbols must be below {LARGEST}, got {magnitude.max()}")
    filled = np.flatnonzero(magnitude.any(axis=0))
    used = int(filled[-1]) + 1 if len(filled) else 0
    mean = magnitude[:, :used].mean(axis=0) if used else np.empty(0)
    ends: list[int] = []
    streams: list[bytes] = []
    escapes: list[NDArray[np.int32]] = []
    start = 0
    for alphabet in ALPHABETS:
        end = max(start, int((mean >= alphabet.least_mean).sum()))
        plane, large = symbols[:, start:end].reshape(-1), magnitude[:, start:end].reshape(-1)
        streams.append(share_bytes(plane, alphabet))
        escapes.append(large[large >= alphabet.largest] - alphabet.largest)
        ends.append(end)
        start = end
    escaped = np.concatenate(escapes).astype(_ESCAPE)
    streams.append(shuffle(escaped.view(np.uint8), _ESCAPE.itemsize))
    return Head(tuple(ends), len(escaped)), streams


def join(
    head: Head,
    streams: Sequence[NDArray[np.uint8]],
    rows: int,
    value: Callable[[NDArray[np.int32]], NDArray[Number]],
) -> NDArray[Number]:
    """Values of the matrix [rows, columns up to the last end] that `split` took apart.

    value: of symbols; larger for larger ones, and that of -s is minus that of s.

    Raises:
        DecodeError: a byte that no symbols make, or escapes that do not fit.
    """
    larger_by = unshuffle(streams[-1], _ESCAPE.itemsize).view(_ESCAPE)
    if larger_by.max(initial=0) >= LARGEST:
        raise DecodeError(f"a symbol is larger by {larger_by.max()} than its alphabet holds")
    values = value(SMALL)
    found = np.empty((rows, head.ends[-1]), values.dtype)
    start = taken = 0
    for alphabet, end, stream in zip(ALPHABETS, head.ends, streams[:-1], strict=True):
        plane = take_apart(stream, alphabet, rows * (end - start), values)
        largest = values[len(SMALL) // 2 + alphabet.largest]
        where = np.flatnonzero(np.abs(plane) >= largest)
        more = larger_by[taken : taken + len(where)]
        taken += len(where)
        if taken > head.escapes:
            raise DecodeError(f"{head.escapes} escapes for {taken} symbols or more that need one")
        plane[where] = np.sign(plane[where]) * value((alphabet.largest + more).astype(np.int32))
        found[:, start:end] = plane.reshape(rows, end - start)
        start = end
    if taken < head.escapes:
        raise DecodeError(f"{head.escapes} escapes for {taken} symbols that need one")
    return found


def compress(streams: Sequence[bytes], level: int) -> bytes:
    """One frame; each stream begins a block of its own, so gets a Huffman code of its own."""
    whole = sum(map(len, streams))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=whole, min_match=_LEAST_MATCH
    )
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=whole)
    parts = []
    for stream in streams:
        if stream:
            parts += [writer.compress(stream), writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*parts, writer.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)])


def decompress(frame: bytes, sizes: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Streams of known sizes; no more memory than these is taken, whatever the frame claims.

    Raises:
        DecodeError: it is no frame of exactly these bytes, or something follows it.
    """
    whole = sum(sizes)
    try:
        claimed = zstandard.frame_content_size(frame)
        if claimed != whole:
            raise DecodeError(f"a frame of {claimed} bytes, expected {whole}")
        if whole > len(frame) * _MOST_EXPANSION:
            raise DecodeError(f"{len(frame)} bytes cannot be a frame of {whole}")
        data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"zstandard: {error}") from error
    if len(data) != whole:
        raise DecodeError(f"a frame held {len(data)} bytes, expected {whole}")
    return np.split(np.frombuffer(data, np.uint8), np.cumsum(sizes)[:-1])


def largest_frame(size_bytes: int) -> int:
    """Bytes that a frame of streams of so many bytes has at most.

    Source: ZSTD_COMPRESSBOUND of zstandard 1.5, and a block more for each stream.
    """
    return size_bytes + (size_bytes >> 8) + _FRAME_BYTES


def largest_matrix(count: int) -> int:
    """Bytes that the head and frame of a matrix of so many symbols have at most."""
    return HEAD_BYTES + largest_frame(count * (1 + _ESCAPE.itemsize))


def shuffle(data: NDArray[np.uint8], item_bytes: int) -> bytes:
    """First bytes of all items, then second bytes, ...: those of a kind compress together."""
    return data.reshape(-1, item_bytes).T.tobytes()


def unshuffle(data: NDArray[np.uint8], item_bytes: int) -> NDArray[np.uint8]:
    """What `shuffle` got."""
    return data.reshape(item_bytes, -1).T.flatten()


def share_bytes(symbols: NDArray[np.integer[Any]], alphabet: Alphabet) -> bytes:
    """Symbols [count], cut to the alphabet, the first of each byte as its lowest digit.

    The digits of 0, 1, -1, 2, -2, ... are 0, 1, 2, 3, 4, ...; what is left of the last byte is 0.
    """
    digits = np.zeros((alphabet.size(len(symbols)), alphabet.per_byte), np.uint8)
    short = symbols.clip(-alphabet.largest, alphabet.largest).astype(np.int8).view(np.uint8)
    digits.reshape(-1)[: len(symbols)] = _DIGITS[short]
    shared = np.zeros(len(digits), np.uint8)
    for place in reversed(range(alphabet.per_byte)):
        shared = shared * np.uint8(alphabet.base % 256) + digits[:, place]
    return shared.tobytes()


def take_apart(
    stream: NDArray[np.uint8], alphabet: Alphabet, count: int, values: NDArray[Number]
) -> NDArray[Number]:
    """Values of the symbols [count] that `share_bytes` got; `values`: those of `SMALL`."""
    if stream.max(initial=0) >= alphabet.base**alphabet.per_byte:
        raise DecodeError(f"a byte of {stream.max()} holds no {alphabet.per_byte} symbols")
    of_bytes = values[_TABLES[alphabet.base] + len(SMALL) // 2]
    return of_bytes.take(stream, axis=0).reshape(-1)[:count]


def _symbols_of_bytes(alphabet: Alphabet) -> NDArray[np.int32]:
    """The symbols that each byte holds, [256, per_byte]."""
    digits = np.arange(256)[:, None] // alphabet.base ** np.arange(alphabet.per_byte)
    digits = digits % alphabet.base
    return np.where(digits % 2, (digits + 1) // 2, -(digits // 2)).astype(np.int32)


_TABLES = {alphabet.base: _symbols_of_bytes(alphabet) for alphabet in ALPHABETS}
_SIGNED = np.arange(256).astype(np.int8).astype(np.int32)
_DIGITS = np.where(_SIGNED > 0, 2 * _SIGNED - 1, -2 * _SIGNED).astype(np.uint8)
"""By the byte of an int8 symbol."""
