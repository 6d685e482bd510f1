"""Where and in which type a model runs."""

import torch

from batch.errors import ModelError


def choose_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        ModelError: torch cannot use it here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ModelError(f"--device {device}: torch cannot use it here: {reason}") from error
    return device


def choose_dtype(dtype: str | None, device: str) -> str:
    """The type asked for, or float32 on the CPU and bfloat16 elsewhere."""
    return dtype or ("float32" if device.split(":")[0] == "cpu" else "bfloat16")
