"""Which device each part of a loaded model computes on. Knows accelerate's hooks (1.15)."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn

Device = str | Mapping[str, str | int]
"""One device as torch names it, "auto" to spread a model over all there are, or a device_map of
transformers: a device, "cpu" or "disk" for each part of the model by name."""


def first_device(device: Device) -> torch.device:
    """The device that a model asked for there computes on first, as far as is known beforehand."""
    if isinstance(device, str) and device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; of a sharded model, its weights may lie elsewhere until then."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    # Linear layers quantised by GPTQ or AWQ keep their weights in buffers.
    return next(chain(module.parameters(), module.buffers())).device
