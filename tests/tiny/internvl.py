"""A tiny random InternVL checkpoint, with one image processor's file for videos too."""

from pathlib import Path

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from tests.tiny import byte_level
from tests.tiny.files import DECODER, save, write

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ '<video>' if part['type'] == 'video' else '<IMG_CONTEXT>' }}\n{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def internvl(folder: Path, *, vision_layers: int = 2) -> Path:
    """Write a random InternVL: 4 x 4 patches of 14 px, merged into 2 x 2 cells."""
    torch.manual_seed(0)
    words = byte_level.tokenizer(
        SPECIAL,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=vision_layers,
            num_attention_heads=2,
            image_size=56,
        ),
        text_config=Qwen2Config(
            vocab_size=len(words),
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=SPECIAL.index("<|im_end|>"),
            **DECODER,
        ),
        image_token_id=SPECIAL.index("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    words.save_pretrained(folder)
    pictures = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": False,
        "size": {"height": 56, "width": 56},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    write(folder / "preprocessor_config.json", pictures)
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    write(folder / "processor_config.json", processor)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return save(InternVLForConditionalGeneration(config), folder)
