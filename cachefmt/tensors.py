"""A file's numbers as torch tensors; the only module here but the codecs that imports torch."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cachefmt.reader import CacheFile

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""By safetensors' names."""


def tensor(cache_file: CacheFile, name: str, start: int = 0, stop: int | None = None) -> Tensor:
    """As `CacheFile.array`: no copy, on the CPU.

    Do not write into it: the file would stay as it is, but everyone who maps this open file
    would see the change.
    """
    array = cache_file.array(name, start, stop)
    array.flags.writeable = True  # the map is private: torch would warn about a read-only one
    return as_tensor(array, cache_file.dtype(name))


def as_tensor(array: NDArray[Any], dtype: str) -> Tensor:
    """An array of a file as a tensor of its dtype (safetensors' name), without a copy."""
    return torch.from_numpy(array).view(TORCH_DTYPES[dtype])
