"""How much there is to see in each cell of one picture. Knows no time and no tiers."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.video.geometry import Geometry

MapOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Of a picture, uint8 [height, width, 3], the saliency of each pixel, 0..1; [height, width]."""

_EDGE_FLOOR = 60.0
_EDGE_CEILING = 250.0
_EDGE_WINDOW_PX = 5
_COLOUR_WINDOW_PX = 7
_COLOUR_RANGE = 45.0
_NOISE_LEAST, _NOISE_MOST = 1.5, 8.5
"""Bounds of what is taken for noise. Measured: on a flat picture with camera noise of sigma 5,
99.9 % of the pixels deviate by less than 7.8."""


def saliency_map(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean of edge density and local colour deviation, 0..1; float32 [height, width].

    The scale is absolute, not stretched per picture: a blank wall with camera noise scores near 0
    everywhere, where a stretched map would find it as salient as a crowd.

    Source: the paper's saliency (Canny edges and LAB variance); the combination is ours.
    """
    return (edge_density(rgb) + colour_deviation(rgb)) * np.float32(0.5)


def cell_saliency(
    rgb: NDArray[np.uint8], geometry: Geometry, map_of: MapOf = saliency_map
) -> NDArray[np.float32]:
    """Mean over each cell of the saliency map, 0..1; float32 [cells]. Source: eq. 7.

    Of a picture of several frames, a cell has the saliency of its most salient frame.
    """
    frames = (geometry.cell_means(map_of(frame)) for frame in geometry.split(rgb))
    return reduce(np.maximum, frames)


def edge_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of Canny edge pixels near each pixel, saturating at one line; [height, width].

    The upper Canny threshold is the gradient that one pixel in seven exceeds, so that a busy
    picture shows its strongest edges; bounded below so that noise of 5 grey levels gives none.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (5, 5), 0)
    across = cv2.Sobel(grey, cv2.CV_16S, 1, 0)
    down = cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    steepness = cv2.magnitude(across.astype(np.float32), down.astype(np.float32))
    high = float(np.clip(_quantile(steepness, 0.85), _EDGE_FLOOR, _EDGE_CEILING))
    edges = cv2.Canny(across, down, 0.4 * high, high, L2gradient=True)
    window = (_EDGE_WINDOW_PX, _EDGE_WINDOW_PX)
    near = cv2.boxFilter(edges, cv2.CV_32F, window, normalize=False)  # 255 times their number
    density: NDArray[np.float32] = np.minimum(near / np.float32(255 * _EDGE_WINDOW_PX), 1)
    return density


def colour_deviation(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation in LAB of each pixel's surroundings, less noise, 0..1; [height, width].

    What the calmest tenth of the picture deviates is taken for noise, within bounds, so that a
    faint texture still counts in a clean picture.
    """
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    window = (_COLOUR_WINDOW_PX, _COLOUR_WINDOW_PX)
    variances = cv2.blur(lab * lab, window) - cv2.blur(lab, window) ** 2
    variance = cv2.transform(variances, np.ones((1, 3), np.float32))  # numpy's sum takes longer
    deviation = np.sqrt(np.maximum(variance, 0))
    calm = _quantile(deviation, 0.1)
    noise = float(np.clip(1.4 * calm, _NOISE_LEAST, _NOISE_MOST))
    scaled: NDArray[np.float32] = np.clip((deviation - noise) / _COLOUR_RANGE, 0, 1)
    return scaled


def _quantile(values: NDArray[Any], share: float) -> float:
    """As `np.quantile`, which takes many times as long: about this share of the values is below."""
    place = share * (values.size - 1)
    rank = int(place)
    low, high = np.partition(values, (rank, rank + 1), axis=None)[rank : rank + 2]
    return float(low + (high - low) * (place - rank))
