"""Tiny random LLaVA-1.5, LLaVA-NeXT-Video and LLaVA-OneVision checkpoints.

Their processors lie in the three ways there are: all in processor_config.json, a file for images
and one for videos, and one for images that serves for videos too. CLIP has 3 layers and SigLIP 2,
so vision feature layer -4 or -3 is before all attention: a patch's own pixels alone (transformers
5.23 takes 0 for none).
"""

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests import tiny
from tests.tiny.files import DECODER, FIRST_IDS, TOWER, save, write

NEWLINE = "\n"
VIDEO = "<video>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[ INST ]"
    "{% for kind in ['image', 'video'] %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', kind) %}"
    "<{{ kind }}>\n"
    "{% endfor %}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %} [ / INST ]{% endfor %}"
)
"""Pictures first, then text, as the templates of these families have it."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of tests.tiny, and a line break as a token, so that separators are seen."""
    words = tiny.tokenizer()
    words.add_tokens([VIDEO, NEWLINE], special_tokens=True)
    return words


def llava(folder: Path, *, side_px: int = 28, vision_feature_layer: int = -2) -> Path:
    """Write a random LLaVA-1.5: a grid of 2 x 2 cells of 14 px, cut from the middle."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlavaConfig(
        vision_config=_clip(side_px),
        text_config=LlamaConfig(**_sizes(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=vision_feature_layer,
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}
        ),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return save(LlavaForConditionalGeneration(config), folder)


def llava_next_video(folder: Path, *, side_px: int = 56, vision_feature_layer: int = -2) -> Path:
    """Write a random LLaVA-NeXT-Video: 2 x 2 cells of 28 px, pooled from 4 x 4 patches."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlavaNextVideoConfig(
        vision_config=_clip(side_px),
        text_config=LlamaConfig(**_sizes(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=vision_feature_layer,
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=[[side_px, 2 * side_px]],
    )
    words.save_pretrained(folder)
    write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "LlavaNextImageProcessor",
            "image_grid_pinpoints": [[side_px, 2 * side_px]],
            "size": {"shortest_edge": side_px},
            "crop_size": {"height": side_px, "width": side_px},
        },
    )
    write(
        folder / "video_preprocessor_config.json",
        {
            "video_processor_type": "LlavaNextVideoVideoProcessor",
            "size": {"shortest_edge": side_px},
            "crop_size": {"height": side_px, "width": side_px},
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.4],
        },
    )
    processor = {
        "processor_class": "LlavaNextVideoProcessor",
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
    }
    write(folder / "processor_config.json", processor)
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    return save(LlavaNextVideoForConditionalGeneration(config), folder)


def llava_onevision(folder: Path, *, side_px: int = 48, vision_feature_layer: int = -1) -> Path:
    """Write a random LLaVA-OneVision: 3 x 3 patches in 42 of 48 px, 2 x 2 cells of 21 px."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(image_size=side_px, vision_use_head=False, **TOWER),
        text_config=Qwen2Config(**_sizes(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=vision_feature_layer,
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=[[side_px, 2 * side_px]],
    )
    words.save_pretrained(folder)
    write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "do_pad": True,
            "image_grid_pinpoints": [[side_px, 2 * side_px]],
            "size": {"height": side_px, "width": side_px},
        },
    )
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (side_px // 14) ** 2,
        "vision_feature_select_strategy": "full",
    }
    write(folder / "processor_config.json", processor)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return save(LlavaOnevisionForConditionalGeneration(config), folder)


def _clip(side_px: int) -> CLIPVisionConfig:
    sizes = TOWER | {"num_hidden_layers": 3}
    return CLIPVisionConfig(image_size=side_px, projection_dim=24, **sizes)


def _sizes(words: PreTrainedTokenizerFast) -> dict[str, int]:
    return {**DECODER, **FIRST_IDS, "vocab_size": len(words), "max_position_embeddings": 1024}
