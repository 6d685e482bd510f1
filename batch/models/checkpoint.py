"""A checkpoint folder or hub repository: its files, its identity, its weights.

Knows Hugging Face's file conventions and what transformers (5.23) reads; no model family.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from batch.errors import ModelError
from batch.models.placement import Device, first_device
from batch.settings import checkpoint_folder

_PROBE_BYTES = 256


@dataclass(frozen=True)
class Checkpoint:
    """Config, processor and identity of a model; weights on demand."""

    name: str
    """What finds it again: "demo", an absolute folder or a hub id."""
    folder: Path
    revision: str | None
    offline: bool
    config: PreTrainedConfig
    tokenizer: Any
    chat_template: str
    processor: dict[str, Any]
    """processor_config.json, or nothing in older checkpoints."""

    def pictures(self, kind: Literal["image", "video"]) -> dict[str, Any]:
        """How images, or the frames of videos, are prepared.

        Read from the files, as transformers' own video processors need torchvision (5.23). What a
        file leaves out is the default of the family's processor class.
        """
        nested = self.processor.get(f"{kind}_processor")
        if nested is not None:
            return dict(nested)
        names = ["preprocessor_config.json"]
        if kind == "video":
            names.insert(0, "video_preprocessor_config.json")
        found = (_read_json(self.folder / name) for name in names)
        return next((settings for settings in found if settings), {})

    @cached_property
    def config_sha256(self) -> str:
        """Digest of config.json, without the library version that wrote it."""
        config = json.loads((self.folder / "config.json").read_bytes())
        config.pop("transformers_version", None)
        return _digest(config)

    @cached_property
    def processor_sha256(self) -> str:
        tokens = self.tokenizer.backend_tokenizer.to_str()
        return _digest([self.processor, self.pictures("image"), self.pictures("video"), tokens])

    @cached_property
    def chat_template_sha256(self) -> str:
        return _digest(self.chat_template)

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of every tensor's name, type and shape and of the ends of its data.

        The same weights have the same digest in one file or in many shards. A few hundred
        bytes of each tensor are read, so it is cheap, and a fine-tune differs in them.
        """
        found = {}
        for shard in self._shards():
            found.update(_probe_tensors(shard))
        return _digest(found)

    @property
    def quantised_by(self) -> str | None:
        """The method by which the weights are quantised already, None if they are not."""
        settings = getattr(self.config, "quantization_config", None)
        return None if settings is None else str(settings.get("quant_method", "bitsandbytes"))

    @property
    def own_dtype(self) -> str:
        return dtype_name(self.config.dtype or "float16")

    @cached_property
    def parameters(self) -> int:
        """Numbers in the weights before they were quantised, tied ones once; from the config."""
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(self.config)  # type: ignore[no-untyped-call]  # untyped in 5.23
        return sum(parameter.numel() for parameter in model.parameters())

    def weights_bytes(self, dtype: torch.dtype) -> int | None:
        """Size of the weights in memory; None if they are quantised and their files not there."""
        if self.quantised_by is None:
            return self.parameters * dtype.itemsize
        shards = _shard_paths(self.folder)
        return None if _missing(shards) else sum(shard.stat().st_size for shard in shards)

    def load_weights(self, *, dtype: torch.dtype, device: Device) -> PreTrainedModel:
        """Load the model with its weights on their devices, for inference."""
        self._shards()
        quantised_by = self.quantised_by
        device_map: str | dict[str, str | int] | None = None  # all weights are read on the CPU
        if not isinstance(device, str):
            device_map = dict(device)
        elif device == "auto":
            device_map = device
        elif quantised_by is not None:
            device_map = {"": device}
        if device_map is not None and find_spec("accelerate") is None:
            what = f"weights quantised by {quantised_by}" if quantised_by else f"device {device!r}"
            raise ModelError(
                f"{self.name}: {what} need accelerate;  pip install 'accelerate>=1.15,<2'"
            )
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                self.folder,
                dtype=dtype,
                device_map=device_map,
                local_files_only=True,
                output_loading_info=True,
            )
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{self.name}: the weights cannot be loaded: {error}") from error
        model: PreTrainedModel = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:  # transformers 5.23 fills them with random numbers
            raise ModelError(f"{self.name}: {len(missing)} weights are missing, as {missing[0]}")
        made = next(model.get_input_embeddings().parameters()).dtype
        if made != dtype:  # transformers casts what a quantised layer cannot compute in
            raise ModelError(
                f"{self.name}: weights quantised by {quantised_by} compute in {made} here, not "
                f"in {dtype}; choose it with --dtype {dtype_name(made)}"
            )
        if device_map is None:
            nn.Module.to(model, first_device(device))
        model.train(False)
        return model

    def _shards(self) -> list[Path]:
        shards = _shard_paths(self.folder)
        if self.revision is not None and _missing(shards):
            _fetch(self.name, self.revision, self.offline, [shard.name for shard in shards])
        if missing := _missing(shards):
            advice = (
                "convert the checkpoint with save_pretrained, which writes safetensors"
                if self.revision is None
                else "without --offline they are fetched from the hub, if it has them"
            )
            raise ModelError(f"{self.name}: no {', '.join(missing)} in {self.folder}; {advice}")
        return shards


def open_checkpoint(name: str, *, revision: str | None = None, offline: bool = False) -> Checkpoint:
    """Open config and tokenizer of a checkpoint; from the hub, no weights are fetched yet.

    Raises:
        ModelError: nothing there, or not a checkpoint with a chat template.
    """
    commit, folder = None, checkpoint_folder(name)
    if folder is None:
        folder = _fetch(name, revision, offline, ["*.json", "*.jinja", "*.model", "*.txt"])
        commit = folder.name
    elif name != "demo":
        name = str(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = _read_json(folder / "processor_config.json")
        chat_template = _chat_template(folder, processor, tokenizer)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{name}: not a checkpoint with config and tokenizer: {error}") from error
    if chat_template is None:
        raise ModelError(f"{name}: the checkpoint has no chat template")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{name}: an adapter lies beside the weights; merge it (merge_and_unload of peft) and "
            "save the whole model, so that what computes is what is identified"
        )
    return Checkpoint(
        name=name,
        folder=folder,
        revision=commit,
        offline=offline,
        config=config,
        tokenizer=tokenizer,
        chat_template=chat_template,
        processor=processor,
    )


def dtype_name(dtype: torch.dtype | str) -> str:
    """As the command line and the header of a cache have it."""
    return str(dtype).removeprefix("torch.")


def _shard_paths(folder: Path) -> list[Path]:
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


def _probe_tensors(shard: Path) -> dict[str, list[Any]]:
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


def _chat_template(folder: Path, processor: dict[str, Any], tokenizer: Any) -> str | None:
    """The processor's template, where transformers 5.23 looks for it, else the tokenizer's."""
    raw = folder / "chat_template.jinja"
    if raw.exists():
        return raw.read_text(encoding="utf-8")
    older = _read_json(folder / "chat_template.json").get("chat_template")
    found = older or processor.get("chat_template") or tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def _missing(paths: list[Path]) -> list[str]:
    return [path.name for path in paths if not path.exists()]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return found


def _fetch(name: str, revision: str | None, offline: bool, patterns: list[str]) -> Path:
    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=offline, allow_patterns=patterns
        )
    except HFValidationError as error:
        raise ModelError(f"{name}: neither a folder nor an id on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name}: no such folder, and the hub did not give it ({type(error).__name__}). "
            "Give the folder of a checkpoint, or --model demo for the bundled one."
        ) from error
    return Path(folder)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
