"""Tensors of a cache file as torch tensors over the mapped file."""

import torch
from torch import Tensor

from cachefmt.reader import CacheFile


def tensor(cache_file: CacheFile, name: str, start: int = 0, stop: int | None = None) -> Tensor:
    """Rows [start, stop) of a tensor, to its end without stop; on the CPU, without a copy.

    Do not write into it: the file would stay as it is, but everyone who maps this open file
    would see the change.

    Raises:
        ValueError: no such tensor, not such rows, or the file is closed.
    """
    array = cache_file.array(name, start, stop)
    array.flags.writeable = True  # the map is private: torch would warn about a read-only one
    result = torch.from_numpy(array)
    return result.view(torch.bfloat16) if cache_file.dtype(name) == "BF16" else result
