"""The safetensors files of a checkpoint: which of them transformers (5.23) reads, and digests."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from batch.errors import ModelError

_PROBE_BYTES = 256


def shard_paths(folder: Path) -> list[Path]:
    """The weight files that transformers reads in a folder, there or not."""
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if whole.exists() or not index.exists():
        return [whole]
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of safetensors files") from error


def probe_tensors(shard: Path) -> dict[str, list[Any]]:
    """Type, shape and digest of the ends of the data of each tensor of a safetensors file."""
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


def dtype_name(dtype: torch.dtype | str) -> str:
    """As the command line and the header of a cache have it."""
    return str(dtype).removeprefix("torch.")
