"""A tiny random SmolVLM checkpoint, with one image processor's file for videos too."""

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
)

from tests.tiny import byte_level
from tests.tiny.files import DECODER, FIRST_IDS, TOWER, save, write

SPECIAL = [
    "<pad>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
]
TEMPLATE = "{{ 'only a template for images' }}"
PICTURES = {
    "image_processor_type": "SmolVLMImageProcessor",
    "do_image_splitting": True,
    "size": {"longest_edge": 60},
    "max_image_size": {"longest_edge": 60},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 1,
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 90}},
}


def smolvlm(folder: Path, *, vision_layers: int = 2) -> Path:
    """Write a random SmolVLM: 4 x 4 patches in 56 of 60 px, merged into 2 x 2 cells."""
    torch.manual_seed(0)
    words = byte_level.tokenizer(
        SPECIAL, pad_token="<pad>", bos_token="<|im_start|>", eos_token="<end_of_utterance>"
    )
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(
            image_size=60, **TOWER | {"num_hidden_layers": vision_layers}
        ),
        text_config=LlamaConfig(
            vocab_size=len(words), max_position_embeddings=1024, **DECODER, **FIRST_IDS
        ),
        image_token_id=SPECIAL.index("<image>"),
        scale_factor=2,
    )
    words.save_pretrained(folder)
    write(folder / "preprocessor_config.json", PICTURES)
    processor = {"processor_class": "SmolVLMProcessor", "image_seq_len": 4}
    write(folder / "processor_config.json", processor)
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    return save(SmolVLMForConditionalGeneration(config), folder)
