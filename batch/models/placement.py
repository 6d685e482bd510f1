"""Which device a part of a model computes on, and in which type. Knows accelerate (1.15)."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn

from batch.settings import Dtype

Device = str | Mapping[str, str | int]
"""One device as torch names it, "auto" to spread a model over all there are, or a device_map of
transformers: a device, "cpu" or "disk" for each part of the model by name."""


def first_device(device: Device) -> torch.device:
    """The device that a model asked for there computes on first, as far as is known beforehand."""
    if isinstance(device, str) and device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Of processors whose instructions multiply bfloat16: Intel's and AMD's, then Arm's two."""


def default_dtype(device: torch.device) -> Dtype:
    """The type in which a device multiplies matrices fastest and answers stay the same.

    Of a processor its flags decide, not a measurement: what runs beside it would change that, and
    with it which caches of an archive belong together.

    Source: with amx_bf16, layers of 24 rows and more are 3.2 to 6.3 times as fast in bfloat16;
    without such an instruction (Xeon with avx512_vnni only) bfloat16 takes longer than float32.
    """
    if device.type != "cpu":
        return "bfloat16"
    flags = torch.cpu.get_capabilities()
    return "bfloat16" if any(flags.get(name) for name in _BFLOAT16_FLAGS) else "float32"


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; of a sharded model, its weights may lie elsewhere until then."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    # Linear layers quantised by GPTQ or AWQ keep their weights in buffers.
    return next(chain(module.parameters(), module.buffers())).device
