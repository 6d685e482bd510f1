"""A stand-in for onnxruntime, whose one network finds salient what is bright."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SIZE_PX = 28
MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None, None]
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)[:, None, None]


class Session:
    """What onnxruntime calls InferenceSession; a file holds the shape of its input, in words."""

    opened = 0
    """How many there were."""

    def __init__(self, path: str, options: SimpleNamespace, providers: list[str]) -> None:
        words = Path(path).read_text().split()
        if not words:
            raise ValueError("INVALID_PROTOBUF")
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        self._shape = [int(word) if word.isdigit() else word for word in words]
        type(self).opened += 1

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="picture", shape=self._shape)]

    def run(self, names: None, given: dict[str, NDArray[np.float32]]) -> list[Any]:
        (picture,) = given["picture"]
        assert picture.shape == (3, *self._shape[2:])
        assert picture.dtype == np.float32
        bright = (picture * DEVIATION + MEAN).mean(axis=0)
        return [bright[None, None]]


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where onnxruntime is imported from."""
    runtime: Any = ModuleType("onnxruntime")
    runtime.__spec__ = ModuleSpec("onnxruntime", None)  # torch 2.13 looks whether it is there
    runtime.SessionOptions = SimpleNamespace
    runtime.InferenceSession = Session
    patch.setitem(sys.modules, "onnxruntime", runtime)


def write_network(path: Path, shape: str = f"batch 3 {SIZE_PX} {SIZE_PX}") -> Path:
    path.write_text(shape)
    return path
