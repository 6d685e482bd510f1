"""A file's numbers as torch tensors; the only module here but the codecs that imports torch."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

TORCH_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""By safetensors' names."""


def as_tensor(array: NDArray[Any], dtype: str) -> Tensor:
    """An array as a tensor of its dtype (safetensors' name), without a copy."""
    return torch.from_numpy(array).view(TORCH_DTYPES[dtype])
