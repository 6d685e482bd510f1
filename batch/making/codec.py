"""Which codec a cache is written with, decided before anything is computed."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batch.settings import Quality
from cachefmt import Codec
from cachefmt.header import Shape
from cachefmt.layout import kv_bytes

if TYPE_CHECKING:
    from cachefmt.calibration import Calibration

STEPS: dict[Quality, float] = {"high": 0.6, "standard": 0.85, "small": 1.4}
"""Of the quantiser of `klt`; a number of a layer's keys or values has 1 in the mean square.

Source: the worst judge, a real language model's rows of prose, 8 contexts. With a calibration the
next tokens behind `standard` are as far from those behind exact rows as with all rows at INT4 (KL
0.0087 and 0.0091, the same token 0.955 and 0.957), in a sixth of the bytes; `high` has 0.0053 and
0.972, `small` 0.0195 and 0.942. `batch evaluate --judge prose`.
"""
SEARCHED_STEPS = (0.25, 0.4, 0.6, 0.85, 1.1, 1.4, 2.0, 3.0)
"""Of which `--max-kl` takes the coarsest that keeps the error within its bound."""
LARGEST_VECTOR = 4096
"""Numbers of a token that share a basis, unless one layer has more."""
BASIS_BYTES = 0.05
"""About what a number of a file's own basis takes.

Source: films of the demo world at the steps 0.7 to 1.4: 0.01 to 0.05, as most components of a video
carry next to nothing.
"""
LARGEST_BASIS = 0.5
"""Of what plain rows would take: a basis that is larger does not pay."""
_PLAIN_SAMPLES, _KLT_SAMPLES = 4, 16


class CodecChoice(NamedTuple):
    """A codec, and what a person should know of it."""

    codec: Codec
    note: str | None
    """Why it is not the one that was asked for, and what would help."""


def choose_codec(
    shape: Shape,
    quality: Quality,
    *,
    segments: int,
    why_fixed: str | None,
    calibration: "Calibration | None",
    text_ids: NDArray[np.int32],
) -> CodecChoice:
    """Choose for all files of a video.

    Args:
        shape: of the whole video, as if it were one segment.
        why_fixed: the model's keys cannot be moved to other positions; None: they can.
        text_ids: of the text before the first sample.
    """
    plain = plain_codec(shape)
    if quality == "lossless":
        return CodecChoice(plain, None)
    if why_fixed is not None:
        return CodecChoice(plain, f"is kept as computed, at quality lossless: {why_fixed}")
    if calibration is not None:
        codec = Codec(
            name="klt",
            quality=quality,
            step=STEPS[quality],
            group_layers=calibration.header.shape.group_layers,
            block_samples=_KLT_SAMPLES,
            calibration=calibration.sha256,
            text_tokens=calibration.shared_text(text_ids, shape.raw_dtype),
        )
        return CodecChoice(codec, None)
    group_layers = min(shape.layers, max(1, LARGEST_VECTOR // shape.layer_numbers))
    basis_bytes = _basis_bytes(shape, group_layers, segments)
    rows_bytes = kv_bytes(shape)
    if basis_bytes > LARGEST_BASIS * rows_bytes:
        note = (
            f"is kept as computed, at quality lossless: a basis of its own, about "
            f"{basis_bytes:,} bytes, would not pay beside rows of {rows_bytes:,}; batch calibrate "
            "makes one that all videos share"
        )
        return CodecChoice(plain, note)
    codec = Codec(
        name="klt",
        quality=quality,
        step=STEPS[quality],
        group_layers=group_layers,
        block_samples=_KLT_SAMPLES,
    )
    return CodecChoice(codec, None)


def plain_codec(shape: Shape) -> Codec:
    """Rows as memory holds them."""
    return Codec(
        name="plain", quality="lossless", group_layers=shape.layers, block_samples=_PLAIN_SAMPLES
    )


def _basis_bytes(shape: Shape, group_layers: int, segments: int) -> int:
    """About what the bases of all files of a video take: no more vectors than tokens to fit."""
    groups = [
        min(group_layers, shape.layers - first) for first in range(0, shape.layers, group_layers)
    ]
    samples = max(1, shape.stored_samples)
    tokens = shape.token_count * min(_KLT_SAMPLES, samples) // samples
    vectors = [layers * shape.layer_numbers for layers in groups]
    return int(segments * sum(vector * min(vector, tokens) for vector in vectors) * BASIS_BYTES)
