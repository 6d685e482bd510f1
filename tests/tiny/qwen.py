"""Tiny random Qwen-VL checkpoints, with files as the hub's checkpoints have them.

Qwen2-VL has a flat config and only an image processor's file, with older names for its limits;
Qwen2.5-VL the same beside a nested config; Qwen3-VL a file for videos. Cells are of 8 x 8 px.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.tiny import byte_level
from tests.tiny.files import DECODER, save, write

SPECIAL = "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> "
SPECIAL += "<|image_pad|> <|video_pad|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type in ('image', 'video') %}"
    "<|vision_start|><|{{ part.type }}_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCHES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
COLOURS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def qwen2_vl(folder: Path, *, seed: int = 0, least_px: int = 64, most_px: int = 2**20) -> Path:
    """Write a random Qwen2-VL whose frames have so many pixels."""
    torch.manual_seed(seed)
    words = _tokenizer(folder)
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        vision_config=vision | _sizes_of_patches(), text_config=_text(words), **_ids(words)
    )
    limits = {"min_pixels": least_px, "max_pixels": most_px}
    write(folder / "preprocessor_config.json", PATCHES | COLOURS | limits | _classes("Qwen2VL"))
    save(Qwen2VLForConditionalGeneration(config), folder)
    nested = json.loads((folder / "config.json").read_text())
    text = nested.pop("text_config")
    write(folder / "config.json", text | nested)
    return folder


def qwen2_5_vl(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Qwen2.5-VL of two positions a second and vision windows of 16 px."""
    torch.manual_seed(seed)
    words = _tokenizer(folder)
    vision = {
        "depth": 2,
        "hidden_size": 24,
        "out_hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        vision_config=vision | _sizes_of_patches(), text_config=_text(words), **_ids(words)
    )
    limits = {"min_pixels": 64, "max_pixels": 2**20}
    write(folder / "preprocessor_config.json", PATCHES | COLOURS | limits | _classes("Qwen2_5_VL"))
    return save(Qwen2_5_VLForConditionalGeneration(config), folder)


def qwen3_vl(folder: Path, *, seed: int = 0, most_px: int = 2**20) -> Path:
    """Write a random Qwen3-VL with two levels of deepstack and a budget of pixels for a video."""
    torch.manual_seed(seed)
    words = _tokenizer(folder)
    vision = {
        "depth": 3,
        "hidden_size": 24,
        "out_hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = _text(words) | {"head_dim": 8, "num_hidden_layers": 3}
    text["rope_parameters"] = {**text["rope_parameters"], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        vision_config=vision | _sizes_of_patches(), text_config=text, **_ids(words)
    )
    video = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 64, "longest_edge": most_px},
    }
    write(folder / "video_preprocessor_config.json", PATCHES | COLOURS | video)
    write(folder / "preprocessor_config.json", PATCHES | COLOURS | _classes("Qwen3VL"))
    return save(Qwen3VLForConditionalGeneration(config), folder)


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The special tokens of Qwen-VL among byte pairs, written with the chat template."""
    words = byte_level.tokenizer(SPECIAL.split(), eos_token="<|im_end|>")
    words.save_pretrained(folder)
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    return words


def _ids(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    tokens = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    return {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _text(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        **DECODER,
        "vocab_size": len(words),
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
        },
    }


def _sizes_of_patches() -> dict[str, int]:
    return {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}


def _classes(family: str) -> dict[str, str]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": f"{family}Processor",
    }
