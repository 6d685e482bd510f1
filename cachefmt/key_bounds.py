"""What a video is searched by before its rows are decoded: bounds of each sample's keys.

Knows numpy, no torch.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt import columns
from cachefmt.header import Shape
from cachefmt.layout import index_specs


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyBounds:
    """Smallest (0) and largest (1) of each channel of a stored sample's keys, INT4.

    The keys of its cells without the rotation of their position.

    - codes: uint8 [stored samples, index layers, 2, heads, head_dim / 2].
    - scale, minimum: float16 [stored samples, index layers, 2, heads, groups].
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16]

    def pack(self, shape: Shape) -> bytes:
        """The bytes of the file's tensor `index`; ValueError if they do not fit the shape."""
        parts: tuple[NDArray[Any], ...] = (self.codes, self.scale, self.minimum)
        for part, spec in zip(parts, index_specs(shape), strict=True):
            if part.shape != spec.shape or part.dtype != spec.numpy_dtype:
                raise ValueError(
                    f"index: got {part.dtype} {part.shape}, "
                    f"expected {spec.numpy_dtype} {spec.shape}"
                )
        self._check()
        return columns.pack(parts)

    @classmethod
    def unpack(cls, data: bytes, shape: Shape) -> Self:
        """Read what `pack` wrote about a file of this shape; ValueError if it is not that."""
        specs = [(spec.numpy_dtype, spec.shape) for spec in index_specs(shape)]
        codes, scale, minimum = columns.unpack(data, "index", specs)
        bounds = cls(codes=codes, scale=scale, minimum=minimum)
        bounds._check()
        return bounds

    def _check(self) -> None:
        if not (np.isfinite(self.scale).all() and np.isfinite(self.minimum).all()):
            raise ValueError("index: a scale or minimum is not finite")
