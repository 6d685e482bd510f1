"""The safetensors files of a checkpoint: which they are, their digest, a model made of them.

Knows what transformers (5.23) reads; knows no hub and no model family.
"""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from batch.errors import ModelError
from batch.models.placement import Device, first_device

_WHOLE = "model.safetensors"
_PROBE_BYTES = 256


def shard_names(folder: Path) -> list[str]:
    """Names of the weight files that transformers reads in a folder, there or not."""
    index = folder / "model.safetensors.index.json"
    if folder.joinpath(_WHOLE).exists() or not index.exists():
        return [_WHOLE]
    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of safetensors files") from error


def probe_tensors(shard: Path) -> dict[str, list[Any]]:
    """Type, shape and digest of the ends of the data of each tensor of a safetensors file.

    Raises:
        ModelError: it is no such file.
    """
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > shard.stat().st_size:
            raise ModelError(
                f"{shard}: not a safetensors file; if it is a Git LFS pointer, run git lfs pull"
            )
        try:
            table: dict[str, Any] = json.loads(file.read(length))
            table.pop("__metadata__", None)
            entries = {
                name: (entry["dtype"], entry["shape"], entry["data_offsets"])
                for name, entry in table.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{shard}: not a safetensors file") from error
        found = {}
        for name, (dtype, shape, (begin, end)) in entries.items():
            ends = b""
            for at in (begin, max(begin, end - _PROBE_BYTES)):
                file.seek(8 + length + at)
                ends += file.read(min(_PROBE_BYTES, end - begin))
            found[name] = [dtype, shape, hashlib.sha256(ends).hexdigest()]
    return found


def load_model(
    name: str, folder: Path, *, dtype: torch.dtype, device: Device, quantised_by: str | None
) -> PreTrainedModel:
    """Load a model with its weights, for inference.

    Args:
        name: the checkpoint, for errors.
        quantised_by: as of `Checkpoint`.

    Raises:
        ModelError: the weights are missing, damaged or do not fit the config, something they need
            is not installed, or they compute in another type.
    """
    device_map: str | dict[str, str | int] | None = None  # all weights are read on the CPU
    if not isinstance(device, str):
        device_map = dict(device)
    elif device == "auto":
        device_map = device
    elif quantised_by is not None:
        device_map = {"": device}
    if device_map is not None and find_spec("accelerate") is None:
        what = f"weights quantised by {quantised_by}" if quantised_by else f"device {device!r}"
        raise ModelError(f"{name}: {what} need accelerate;  pip install 'sali-cache[sharded]'")
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name}: the weights cannot be loaded: {error}") from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers 5.23 fills them with random numbers
        raise ModelError(f"{name}: {len(missing)} weights are missing, as {missing[0]}")
    made = next(model.get_input_embeddings().parameters()).dtype
    if made != dtype:  # transformers casts what a quantised layer cannot compute in
        raise ModelError(
            f"{name}: weights quantised by {quantised_by} compute in {made} here, not in {dtype}; "
            f"choose it with --dtype {dtype_name(made)}"
        )
    if device_map is None:
        nn.Module.to(model, first_device(device))
    model.train(False)
    return model


def dtype_name(dtype: torch.dtype | str) -> str:
    """As the command line and the header of a cache have it."""
    return str(dtype).removeprefix("torch.")
