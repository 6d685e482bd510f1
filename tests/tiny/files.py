"""What tiny checkpoints have in common: the decoder's shape, how they are written and loaded."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from batch.models import Family, open_family
from batch.models.placement import Device

Model = TypeVar("Model", bound=PreTrainedModel)
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOWER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}
FIRST_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def scaled(model: Model) -> Model:
    """A random model with larger weights: else logits hardly depend on anything."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write a random model, scaled."""
    scaled(model).save_pretrained(folder)
    return folder


def loaded(folder: str | Path, device: Device = "cpu") -> Family:
    """The family of a checkpoint with its weights, float32."""
    family = open_family(str(folder))
    family.load(device=device, dtype=torch.float32)
    return family


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content))
