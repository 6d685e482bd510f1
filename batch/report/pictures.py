"""The samples that a page shows, small enough to lie in it. Knows a manifest's pictures."""

import base64
import io
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from batch.analysis.manifest import Manifest
from batch.report.tiers import INK, OPACITY, STATES

MOST_PICTURES = 96
"""On a page; of a longer video the beginnings of scenes and then others, evenly in time."""
_WIDTHS_PX = {24: 256, 48: 192, MOST_PICTURES: 144}
"""Of each picture, by the most there are: a page takes a few hundred kB in any case."""
_QUALITY = 62


def choose(
    kept: NDArray[np.bool_], first: Collection[int], then: Collection[int], most: int
) -> list[int]:
    """The kept samples that are shown, rising: all if they are few.

    Args:
        kept: bool [samples].
        first: samples that matter most, `then` next; what room is left is spread evenly.
    """
    all_kept = np.flatnonzero(kept)
    if len(all_kept) <= most:
        return [int(sample) for sample in all_kept]
    chosen: set[int] = set()
    for wanted in (sorted(set(first)), sorted(set(then))):
        chosen |= set(_evenly(np.array(wanted, np.int64), most - len(chosen)))
    others = np.setdiff1d(all_kept, sorted(chosen))
    return sorted(chosen | set(_evenly(others, most - len(chosen))))


def _evenly(samples: NDArray[np.int64], count: int) -> list[int]:
    """At most so many of them, the first among them."""
    if len(samples) > count:
        samples = samples[np.arange(count) * len(samples) // max(count, 1)]
    return [int(sample) for sample in samples]


def width_px(pictures: int) -> int:
    """How wide each of so many pictures is stored."""
    return next((width for most, width in _WIDTHS_PX.items() if pictures <= most), 144)


def picture_data(manifest: Manifest, sample: int, width: int) -> str:
    """Address, with the data in it, of a kept sample's first frame, at most so wide.

    A frame that the model sees squeezed has the shape that a player shows.

    Raises:
        ManifestError: as of `Manifest.picture`.
    """
    frame = Image.fromarray(manifest.geometry.split(manifest.picture(sample))[0])
    width = min(width, frame.width)
    size = (width, max(1, round(width / aspect(manifest))))
    file = io.BytesIO()
    frame.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=_QUALITY)
    return _address("image/webp", file.getvalue())


def aspect(manifest: Manifest) -> float:
    """Width of a shown picture by its height."""
    geometry, video = manifest.geometry, manifest.video
    if geometry.fit == "stretch":
        return video.shown_width_px / video.shown_height_px
    return geometry.width_px / geometry.height_px


def tiers_data(states: NDArray[np.uint8]) -> str:
    """Address of a picture with a pixel for each cell, which lets what lies below shine through.

    states: [rows, columns], codes of `STATES`.
    """
    cells = Image.fromarray(states, "P")
    cells.putpalette([value for state in STATES for value in INK[state]])
    file = io.BytesIO()
    alpha = bytes(round(255 * OPACITY[state]) for state in STATES)
    cells.save(file, "PNG", transparency=alpha, optimize=True)
    return _address("image/png", file.getvalue())


def weights_data(weights: NDArray[np.float32]) -> str:
    """Address of a picture with a pixel for each cell, [rows, columns]: the lighter, the more.

    What got least is darkened, what got most shows the picture below as it is.
    """
    share = weights / weights.max() if weights.max() > 0 else np.zeros_like(weights)
    shade = np.zeros((*weights.shape, 4), np.uint8)
    shade[..., 3] = np.rint(150 * (1 - np.sqrt(share)))
    file = io.BytesIO()
    Image.fromarray(shade, "RGBA").save(file, "PNG", optimize=True)
    return _address("image/png", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
