"""KLT: keys and values of several layers by a transform, predicted in time, one quantiser's step.

A block is some stored samples of a group of layers, decodable alone, with its basis. Keys come
without the rotation of their position. A token's numbers, K and V of all layers of the group, are
one vector; of its components most are small. They are rounded to the nearest step; of the whole
numbers those of the token before at the same place are taken off, or not, whichever leaves less; or
the token is the one before again. So prediction costs no quality: what is decoded is the same.

To round small numbers towards 0, as codecs of pictures do, would spare bits, but make all tokens
more alike, and answers see that: at equal bytes the KL of a real language model's next tokens is
twice as large.

Bytes of a block, little-endian:

    rows      uint32: tokens that have symbols
    step      float32
    head      of their symbols, see `symbols.Head`
    frame     zstandard: modes, the symbols' streams, exact rows

- Modes: of each token that is not exact, in order, five a byte, the first as the lowest digit in
  base 3: 0 from the mean, 1 from the token before, 2 the token before again (has no symbols).
- Symbols: [rows, components].
- Exact rows: the numbers of tokens without a place, one token after another; of them all the first
  byte, then of all the second, ...

If the frame would be larger than one of exact rows of all tokens may be, `rows` is 2^32 - 1, and
all else that of the same tokens without places.

Which tokens a block has, and their places, its bytes do not say: the tables of a file do.
"""

import struct
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachefmt.codecs import symbols as coding
from cachefmt.codecs.basis import Basis, require_finite
from cachefmt.codecs.symbols import DecodeError, Head

LARGEST_ERROR = 0.51
"""Of a component that was quantised, in steps; a half and room for float32."""
LEVEL = 19
"""Of zstandard."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_FROM_MEAN, _FROM_BEFORE, _AGAIN = 0, 1, -1
_MODES = coding.Alphabet(base=3, per_byte=5, least_mean=0.0)
_FIXED = struct.Struct("<If")
_ALL_EXACT = 2**32 - 1
_EXACT = struct.pack("<I", _ALL_EXACT)


class _Times(NamedTuple):
    """In which order tokens can be decoded; all [tokens].

    - by_place: tokens by place, those of a place in order.
    - number: how many tokens of its place are before each.
    - before: the last of these, -1 for none.
    """

    by_place: NDArray[np.int64]
    number: NDArray[np.int64]
    before: NDArray[np.int64]

    def steps(self, tokens: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Those of a rising list of tokens with number 0, with 1, ..."""
        number = self.number[tokens]
        order = np.argsort(number, kind="stable")
        return np.split(tokens[order], np.cumsum(np.bincount(number)))[:-1]


def encode(x: Tensor, basis: Basis, *, step: float, place: NDArray[np.int64]) -> bytes:
    """Encode one block.

    Args:
        x: float16, bfloat16 or float32 [tokens, layers, 2, heads, head_dim]; those of earlier
            samples first.
        step: of the quantiser, in units of components, > 0.
        place: of each token in its sample, int [tokens]: it is predicted by the token before at
            the same place. Negative: the token is kept exactly.

    Returns:
        Bytes from which `decode` makes mean + synthesis(y'), where for each token
        ||y - y'|| <= LARGEST_ERROR * step * sqrt(components) + 2^-17 ||y||, y being its components.
        What of x - mean lies outside the basis is lost.

    Raises:
        ValueError: a number is NaN, infinite or 2^23 steps large; or sizes do not fit.
    """
    _check(x, basis, step, place)
    step = float(np.float32(step))
    coded = place >= 0
    y = basis.analyse(x[_as_index(np.flatnonzero(coded))], place[coded])
    require_finite(x)
    symbols, modes = _predicted(_rounded(y, step), _times(place[coded]).before)
    written = symbols[_as_index(np.flatnonzero(modes != _AGAIN))]
    head, streams = coding.split(written.cpu().numpy())
    exact = x[_as_index(np.flatnonzero(~coded))].cpu().flatten().view(torch.uint8).numpy()
    frame = coding.compress(
        [coding.share_bytes(modes, _MODES), *streams, coding.shuffle(exact, x.element_size())],
        LEVEL,
    )
    if len(frame) > coding.largest_frame(x.numel() * x.element_size()):
        return _encode_exactly(x, step)
    return _FIXED.pack(len(written), step) + head.to_bytes() + frame


def decode(data: bytes, basis: Basis, *, place: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
    """Rows [tokens, layers, 2, heads, head_dim] of a block, on the device of the basis.

    Args:
        place, dtype: as of `encode`; memory is bounded by them and the basis.

    Raises:
        DecodeError: bytes that `encode` does not write for such tokens.
    """
    if data[: len(_EXACT)] == _EXACT:
        data, place = bytes(len(_EXACT)) + data[len(_EXACT) :], np.full_like(place, -1)
    coded = place >= 0
    tokens = int(coded.sum())
    numbers = (len(place) - tokens) * basis.vector
    start = _FIXED.size + coding.HEAD_BYTES
    if len(data) < start:
        raise DecodeError(f"a block of {len(data)} bytes")
    rows, step = _FIXED.unpack_from(data)
    if rows > tokens or not 0 < step < float("inf"):
        raise DecodeError(f"{rows} rows with step {step} for {tokens} tokens")
    head = Head.from_bytes(data[_FIXED.size : start], basis.components)
    sizes = [_MODES.size(tokens), *head.stream_sizes(rows), numbers * dtype.itemsize]
    packed, *streams, exact = coding.decompress(data[start:], sizes)
    modes = coding.take_apart(packed, _MODES, tokens, coding.SMALL.astype(np.int8))
    components = coding.join(head, streams, rows, partial(_components, step=step))
    y = torch.from_numpy(components).to(basis.mean.device)
    row_of = _predict(y, modes, _times(place[coded]))
    rows_found = basis.synthesise(y, place[coded][modes != _AGAIN]).to(dtype)
    found = rows_found[_as_index(row_of)]
    if tokens == len(place):
        return found
    x = torch.empty(len(place), *basis.shape, dtype=dtype, device=found.device)
    x[_as_index(np.flatnonzero(coded))] = found
    kept = torch.empty(len(place) - tokens, *basis.shape, dtype=dtype)
    kept.view(torch.uint8).view(-1).copy_(torch.from_numpy(coding.unshuffle(exact, dtype.itemsize)))
    x[_as_index(np.flatnonzero(~coded))] = kept.to(x.device)
    return x


def _components(symbols: NDArray[np.int32], step: float) -> NDArray[np.float32]:
    return symbols.astype(np.float32) * np.float32(step)


def _encode_exactly(x: Tensor, step: float) -> bytes:
    head, streams = coding.split(np.zeros((0, 0), np.int32))
    exact = x.cpu().flatten().view(torch.uint8).numpy()
    frame = coding.compress([*streams, coding.shuffle(exact, x.element_size())], LEVEL)
    return _FIXED.pack(_ALL_EXACT, step) + head.to_bytes() + frame


def _rounded(y: Tensor, step: float) -> Tensor:
    """Steps of each number, int32, of columns up to the last one in which there are any."""
    steps = (y / step).round_()
    largest = float(steps.abs().max()) if steps.numel() else 0.0
    if not largest < coding.LARGEST:
        raise ValueError(f"klt: a number is {largest:.0f} steps of {step} large")
    used = torch.nonzero(steps.any(0))
    return steps[:, : int(used[-1]) + 1 if len(used) else 0].to(torch.int32)


def _predicted(steps: Tensor, before: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int8]]:
    """Of each token its steps, or what they are more than those before, and the mode."""
    modes = np.full(len(steps), _FROM_MEAN, np.int8)
    later = np.flatnonzero(before >= 0)
    at = _as_index(later)
    own = steps[at]
    more = own - steps[_as_index(before[later])]
    is_less = (_bits(more) <= _bits(own)) & (more.abs() < coding.LARGEST).all(1)
    modes[later[is_less.cpu().numpy()]] = _FROM_BEFORE
    modes[later[~more.any(1).cpu().numpy()]] = _AGAIN
    symbols = steps.clone()
    symbols[at] = torch.where(is_less[:, None], more, own)
    return symbols, modes


def _bits(symbols: Tensor) -> Tensor:
    """What symbols [tokens, components] may cost, [tokens]; only for comparing."""
    return symbols.abs().float().log1p_().sum(1)


def _predict(y: Tensor, modes: NDArray[np.int8], times: _Times) -> NDArray[np.int64]:
    """Add to rows of y, in place, what they were predicted from; the row of each token."""
    has_row = modes != _AGAIN
    if np.count_nonzero(has_row) != len(y):
        raise DecodeError(f"modes say that {has_row.sum()} tokens have symbols, got {len(y)} rows")
    if modes[times.before < 0].any():
        raise DecodeError("the first token of a place is predicted")
    own = np.cumsum(has_row) - 1
    by_place = times.by_place
    last = np.maximum.accumulate(np.where(has_row[by_place], np.arange(len(modes)), 0))
    row_of = np.empty_like(own)
    row_of[by_place] = own[by_place[last]]
    for now in times.steps(np.flatnonzero(modes == _FROM_BEFORE)):
        y[_as_index(row_of[now])] += y[_as_index(row_of[times.before[now]])]
    return row_of


def _as_index(rows: NDArray[np.int64]) -> Tensor | slice:
    """For rows of a tensor: a slice if they follow each other, which makes a view of them."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows)


def _check(x: Tensor, basis: Basis, step: float, place: NDArray[np.int64]) -> None:
    if x.dtype not in _DTYPES:
        raise ValueError(f"klt: got {x.dtype}, supported are float16, bfloat16 and float32")
    if tuple(x.shape[1:]) != basis.shape or place.shape != x.shape[:1]:
        raise ValueError(
            f"klt: got rows {tuple(x.shape)} at places {place.shape}, expected {basis.shape} a row"
        )
    if not 0 < np.float32(step) < np.inf:
        raise ValueError(f"klt: the step must be positive and finite, got {step}")


def _times(place: NDArray[np.int64]) -> _Times:
    by_place = np.argsort(place, kind="stable")
    is_new = np.diff(place[by_place], prepend=-1) != 0
    at = np.arange(len(place))
    number, before = np.empty_like(by_place), np.full_like(by_place, -1)
    number[by_place] = at - np.maximum.accumulate(np.where(is_new, at, 0))
    before[by_place[~is_new]] = by_place[at[~is_new] - 1]
    return _Times(by_place, number, before)
