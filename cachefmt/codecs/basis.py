"""The transform of `klt`: from keys and values of a group of layers to few numbers, and back.

Knows how a basis is made of tokens, in one pass, and how it is packed into a file. To it a token
is a vector; of layers and kinds it knows only how each is scaled.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachefmt.codecs.symbols import HEAD_BYTES, DecodeError, Head, compress, decompress, join, split

NOISE = 0.25
"""Error of a packed basis, in steps over the square root of the number of its components.

Source: measured on the demo world; a coarser basis costs more quality than a coarser step.
"""
LEAST_DEVIATION = 0.01
"""Of a layer and kind in a file's own basis, in parts of its root mean square: tokens that hardly
differ are not kept more finely than that."""
WORTH_STORING = 0.5
"""Components of a file's own basis have at least this variance, in squares of the step."""

MOST_NUMBERS = 1 << 26
"""Of all directions of a group: 256 MiB as float32, of whatever few bytes they are read."""

_LEVEL = 19
_FEWEST_LOOKED_FOR, _SHARE_LOOKED_FOR = 256, 1 / 4
"""Components that are looked for alone at first, and of how many at most; else all are found."""
_SMALLEST_SCALE = 1e-6
"""Of a layer and kind, in units of the largest: one that never varies must not be divided by 0."""
_COUNTS = struct.Struct("<H")
_GAIN = np.dtype("<f4")

Shape = tuple[int, int, int, int]
"""Layers, 2 (K and V), heads, head_dim."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """y = (x - mean of the place) @ analysis; x' = mean of the place + y @ synthesis.

    x is a token's numbers of `shape`, flat. All tensors are float32:

    - mean: [places, vector]; the last row is that of all further places, too.
    - scale: [layers, 2], > 0: what the numbers of a layer and kind are divided by.
    - directions: [components, vector], of divided numbers, most energy first; orthonormal or, as
      they were rounded, nearly.
    """

    shape: Shape
    mean: Tensor
    scale: Tensor
    directions: Tensor

    def __post_init__(self) -> None:
        found = tuple(self.mean.shape[1:]), tuple(self.scale.shape), self.directions.shape[1:]
        expected = (self.vector,), self.shape[:2], (self.vector,)
        if found != expected or not len(self.mean) or self.components > self.vector:
            raise ValueError(
                f"a basis of {self.shape} has {self.components} components "
                f"and tensors of {found}, expected {expected}"
            )

    @property
    def vector(self) -> int:
        """Numbers of a token."""
        return math.prod(self.shape)

    @property
    def components(self) -> int:
        return len(self.directions)

    @cached_property
    def synthesis(self) -> Tensor:
        """[components, vector]"""
        return self.directions * spread(self.scale, self.shape)

    @cached_property
    def analysis(self) -> Tensor:
        """[vector, components], what gives the least error of divided numbers."""
        rows = self.directions.double()
        inverse: Tensor = rows.T @ torch.linalg.pinv(rows @ rows.T, hermitian=True)
        return inverse.to(torch.float32) / spread(self.scale, self.shape)[:, None]

    def analyse(self, x: Tensor, place: NDArray[np.int64]) -> Tensor:
        """Float32 [tokens, components] of x [tokens, *shape]."""
        return (x.flatten(1).to(torch.float32) - self._means(place)) @ self.analysis

    def synthesise(self, y: Tensor, place: NDArray[np.int64]) -> Tensor:
        """Float32 [tokens, *shape] of y [tokens, the first components or all]."""
        x = torch.addmm(self._means(place), y, self.synthesis[: y.shape[1]])
        return x.view(-1, *self.shape)

    def to(self, device: torch.device | str) -> "Basis":
        """Itself, with what was worked out of it, if it is there already."""
        if self.mean.device == torch.device(device):
            return self
        return Basis(
            shape=self.shape,
            mean=self.mean.to(device),
            scale=self.scale.to(device),
            directions=self.directions.to(device),
        )

    def _means(self, place: NDArray[np.int64]) -> Tensor:
        if len(self.mean) == 1:
            return self.mean
        own = torch.from_numpy(np.minimum(place, len(self.mean) - 1))
        return self.mean[own.to(self.mean.device)]


class Moments:
    """Sums over tokens, from which bases are made: one pass, memory of a fixed size.

    Holds the covariance, [vector, vector], or with `sketch` its product with so many random
    vectors, which is enough for some fewer components.
    Source of the latter: Nyström's approximation; Tropp and others, arXiv 1706.05736, algorithm 3.
    """

    def __init__(self, shape: Shape, *, places: int = 1, sketch: int | None = None) -> None:
        """`places` that have a mean each; with 1, all tokens count to the same."""
        vector = math.prod(shape)
        seeded = torch.Generator().manual_seed(0)
        self.shape = shape
        self._test = None if sketch is None else torch.randn(vector, sketch, generator=seeded)
        self._product = torch.zeros(vector, vector if sketch is None else sketch)
        self._square = torch.zeros(vector)
        self._sum = torch.zeros(places, vector)
        self._tokens = torch.zeros(places)

    def add(self, x: Tensor, place: NDArray[np.int64]) -> None:
        """Count tokens in: [tokens, *shape], each at its place."""
        flat = x.flatten(1).to(device="cpu", dtype=torch.float32)
        where = torch.from_numpy(place) if len(self._sum) > 1 else torch.zeros(len(x)).long()
        self._product += flat.T @ (flat if self._test is None else flat @ self._test)
        self._square += flat.square().sum(0)
        self._sum.index_add_(0, where, flat)
        self._tokens += torch.bincount(where, minlength=len(self._tokens))

    def tensors(self) -> dict[str, Tensor]:
        """All that was counted in, by name; not copies."""
        return {
            "product": self._product,
            "square": self._square,
            "sum": self._sum,
            "tokens": self._tokens,
        }

    def count_in(self, tensors: Mapping[str, Tensor]) -> None:
        """Add what others of the same shape, places and sketch hold, as `tensors` gave it."""
        for name, own in self.tensors().items():
            own += tensors[name]

    def mean(self) -> Tensor:
        """Of all tokens, [1, vector]."""
        return self._sum.sum(0, keepdim=True) / self._tokens.sum().clamp(min=1)

    def means(self) -> Tensor:
        """Of each place, [places, vector]; where no token was, that of all."""
        own = self._sum / self._tokens.clamp(min=1)[:, None]
        return torch.where(self._tokens[:, None] > 0, own, self.mean())

    def scale(self, mean: Tensor) -> Tensor:
        """Root mean square of each layer and kind about means [places, vector], [layers, 2].

        Where it is 0 or nearly, a small number that can be divided by.
        """
        square = self._square - (mean * (2 * self._sum - self._tokens[:, None] * mean)).sum(0)
        of_kinds = (square / self._tokens.sum().clamp(min=1)).view(self.shape).mean((2, 3))
        return _dividing(of_kinds.clamp(min=0).sqrt())

    def principal(
        self, mean: Tensor, scale: Tensor, most: int, least: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The directions of most variance about means, of numbers divided by their scale.

        Returns:
            variance [components], falling, and orthonormal directions [components, vector];
            components are `most`, or as many as there are whose variance is `least` and more.
        """
        by = spread(scale, self.shape)
        tokens = self._tokens.sum().clamp(min=1)
        weighted = self._tokens[:, None] * mean
        right = torch.eye(self._product.shape[0]) if self._test is None else self._test
        # Sum of (x - m)(x - m)' = xx' - m s' - s m' + n m m', with the sums s and counts n.
        about = self._product + (weighted - self._sum).T @ (mean @ right)
        about -= mean.T @ (self._sum @ right)
        product = about / tokens / by[:, None]
        if self._test is None:
            covariance = product / by
            variance, found = _largest(
                lambda: torch.linalg.eigh(covariance), lambda few: covariance @ few, len(by), least
            )
        else:
            variance, found = _nystrom(product, self._test * by[:, None])
        return _worth(variance.clamp(min=0), found, most, least)


def _dividing(scale: Tensor) -> Tensor:
    """Of layers and kinds, [layers, 2], what can be divided by: none is 0 or nearly."""
    smallest = float(_SMALLEST_SCALE * scale.max())
    return scale.clamp(min=smallest if smallest > 0 else 1.0)


def require_finite(x: Tensor) -> None:
    """ValueError for NaN and infinity; no number hides in a sum, so one look at x tells."""
    if not bool(x.sum(dtype=torch.float32).isfinite()):
        raise ValueError("klt: got NaN, infinity or a magnitude that float32 cannot hold")


def shape_of(x: Tensor) -> Shape:
    """Of a token, from tokens [tokens, layers, 2, heads, head_dim]."""
    _, layers, kinds, heads, head_dim = x.shape
    return layers, kinds, heads, head_dim


def spread(scale: Tensor, shape: Shape) -> Tensor:
    """The scale of each number of a vector from that of each layer and kind."""
    return scale[..., None, None].expand(shape).reshape(-1)


def _worth(variance: Tensor, found: Tensor, most: int, least: float) -> tuple[Tensor, Tensor]:
    """Those of at least so much of falling variance, and the columns found as directions."""
    count = min(most, int((variance >= least).sum()))
    return variance[:count], found.T[:count].contiguous()


def _largest(
    all_of: Callable[[], tuple[Tensor, Tensor]],
    times: Callable[[Tensor], Tensor],
    size: int,
    least: float,
) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and vectors as columns; all of `least` and more, at least.

    Where these are few of many, no others are looked for.
    Source: subspace iteration; Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4. Of a
    decoder of half a billion weights and a vector of 2,048, 101 components leave 25.07 of the
    variance with it and without, in 0.5 s against 5.4 s.

    Args:
        all_of: finds them all, rising.
        times: the covariance, [size, size], by some columns.
    """
    seeded = torch.Generator().manual_seed(0)
    width = _FEWEST_LOOKED_FOR
    while least > 0 and width <= size * _SHARE_LOOKED_FOR:
        found = torch.randn(size, width, generator=seeded)
        for _ in range(2):
            found = torch.linalg.qr(times(found)).Q
        variance, turned = torch.linalg.eigh(found.T @ times(found))
        if variance[width // 4] < least:  # the last ones of those looked for are the least exact
            return variance.flip(0), found @ turned.flip(1)
        width *= 2
    variance, vectors = all_of()
    return variance.flip(0), vectors.flip(1)


def _directions(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and vectors as columns, of the second moments of [tokens, vector].

    By the products of tokens where these are fewer: of 1,500 tokens and a vector of 3,840 in 1.2 s
    of CPU time, not 11. Directions of no variance are none then.
    """
    if len(scaled) >= scaled.shape[1]:
        variance, found = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        return variance, found
    variance, of_tokens = torch.linalg.eigh(scaled @ scaled.T / len(scaled))
    return variance, torch.nn.functional.normalize(scaled.T @ of_tokens, dim=0)


def _nystrom(product: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and vectors as columns, of a covariance by its product with `test`."""
    shift = product.norm() * 1e-6  # keeps Cholesky's argument positive
    shifted = product + shift * test
    core = test.T @ shifted
    root = torch.linalg.cholesky((core + core.T) / 2)
    left = torch.linalg.solve_triangular(root, shifted.T, upper=False).T
    vectors, values, _ = torch.linalg.svd(left, full_matrices=False)
    return values.square() - shift, vectors


def round_directions(variance: Tensor, directions: Tensor, step: float) -> tuple[Tensor, bytes]:
    """Directions as coarse as a step allows: gains [components], and the bytes of all symbols.

    Directions are scaled to the deviation of their component and rounded with one step, so those
    of little energy get few bits. A direction is its symbols times its gain; one of which no symbol
    is left is left out, as are the last ones of more than MOST_NUMBERS.

    Bytes: `symbols.Head`; a frame with the symbols, [vector, components].
    """
    most = MOST_NUMBERS // max(directions.shape[1], 1)
    variance, directions = variance[:most], directions[:most]
    gain = NOISE * step / math.sqrt(max(len(variance), 1)) / variance.sqrt()
    symbols = (directions / gain[:, None]).round().to(torch.int32)
    is_used = symbols.any(1)
    gain, symbols = gain[is_used], symbols[is_used]
    head, streams = split(symbols.T.numpy())
    return gain, head.to_bytes() + compress(streams, _LEVEL)


def read_directions(data: bytes, gain: Tensor, vector: int) -> Tensor:
    """Directions [components, vector] as `round_directions` rounded them.

    Raises:
        DecodeError: bytes that it does not write.
    """
    if len(data) < HEAD_BYTES or len(gain) * vector > MOST_NUMBERS:
        raise DecodeError(f"{len(gain)} directions of {vector} numbers in {len(data)} bytes")
    head = Head.from_bytes(data[:HEAD_BYTES], len(gain))
    if head.ends[-1] != len(gain):
        raise DecodeError(f"{head.ends[-1]} directions that have symbols, expected {len(gain)}")
    streams = decompress(data[HEAD_BYTES:], head.stream_sizes(vector))
    symbols = join(head, streams, vector, lambda numbers: numbers.astype(np.float32))
    return torch.from_numpy(symbols).T.contiguous().mul_(gain[:, None])


def pack(x: Tensor, step: float) -> bytes:
    """The bytes of a file's own basis, as coarse as the step allows.

    No mean is stored; a component takes its part.

    Args:
        x: tokens to fit it to, [tokens, *shape], on the device that does it.

    Bytes: components, uint16; scale, float32 [layers, 2]; gain, float32 [components];
    directions as of `round_directions`.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    require_finite(x)
    shape = shape_of(x)
    x = x.to(torch.float32) if len(x) else torch.zeros(1, *shape, device=x.device)
    deviation = x.var(0, correction=0).mean((2, 3)).sqrt()
    size = torch.linalg.vector_norm(x, dim=(0, 3, 4)) / x[:, 0, 0].numel() ** 0.5
    scale = _dividing(deviation.maximum(LEAST_DEVIATION * size))
    least = WORTH_STORING * step * step
    by = spread(scale, shape)
    scaled = x.flatten(1) / by

    def times(few: Tensor) -> Tensor:
        return scaled.T @ (scaled @ few.to(x.device)) / len(x)

    variance, found = _largest(partial(_directions, scaled), times, len(by), least)
    variance, directions = _worth(variance.cpu(), found.cpu(), len(by), least)
    gain, packed = round_directions(variance, directions, step)
    numbers = [part.cpu().numpy().astype(_GAIN).tobytes() for part in (scale, gain)]
    return b"".join([_COUNTS.pack(len(gain)), *numbers, packed])


def unpack(data: bytes, shape: Shape) -> Basis:
    """The basis that `pack` wrote of a group of this shape.

    Raises:
        DecodeError: bytes that `pack` does not write.
    """
    vector, kinds = math.prod(shape), shape[0] * shape[1]
    if len(data) < _COUNTS.size:
        raise DecodeError(f"a basis of {len(data)} bytes")
    (count,) = _COUNTS.unpack_from(data)
    numbers = _COUNTS.size + _GAIN.itemsize * (kinds + count)
    if count > vector or len(data) < numbers:
        raise DecodeError(f"a basis of {count} components of {vector} in {len(data)} bytes")
    found = np.frombuffer(data[_COUNTS.size : numbers], _GAIN).astype(np.float32)
    if not np.isfinite(found).all() or found.min(initial=1) <= 0:
        raise DecodeError("a scale or gain that is not finite and positive")
    scale, gain = torch.from_numpy(found[:kinds]), torch.from_numpy(found[kinds:])
    return Basis(
        shape=shape,
        mean=torch.zeros(1, vector),
        scale=scale.view(shape[:2]),
        directions=read_directions(data[numbers:], gain, vector),
    )
