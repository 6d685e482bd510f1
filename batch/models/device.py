"""Where and in which type a model runs, when a person leaves it open."""

import torch

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.placement import first_device


def choose_device(device: str | None) -> str:
    """The device asked for ("auto" is left to the model), or the best there is.

    Raises:
        ModelError: torch cannot use it here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ModelError(f"--device {device}: torch cannot use it here: {reason}") from error
    return device


def choose_dtype(dtype: str | None, device: str, checkpoint: Checkpoint) -> str:
    """The type asked for; else the checkpoint's if it is quantised, else by the device.

    That is float32 on the CPU and bfloat16 elsewhere.
    """
    if dtype is not None:
        return dtype
    if checkpoint.quantised_by is not None:
        return checkpoint.own_dtype
    return "float32" if first_device(device).type == "cpu" else "bfloat16"
