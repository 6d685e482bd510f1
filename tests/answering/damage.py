"""Caches that are damaged in one tensor."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachefmt import CacheFile


def flip(cache: CacheFile, name: str, byte: int) -> CacheFile:
    """Another file with a changed byte in a tensor."""
    content = bytearray(cache.array(name).tobytes())
    content[byte] ^= 192
    return overwrite(cache, name, np.frombuffer(content, np.uint8))


def overwrite(cache: CacheFile, name: str, tensor: NDArray[Any]) -> CacheFile:
    """Another file with other content of a tensor, whose checksum stays."""
    content = bytearray(cache.path.read_bytes())
    at = content.index(cache.array(name).tobytes())
    content[at : at + tensor.nbytes] = tensor.tobytes()
    path = cache.path.with_name("damaged.safetensors")
    path.write_bytes(content)
    return CacheFile.open(path)
