"""Tiny random checkpoints of real model families, as folders that the Auto classes load."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from tests.tiny.files import FIRST_IDS, save

VOCABULARY = "<pad> <s> </s> <unk> <image> [ INST ] / what is the red star doing ? . a b c d"
WORDS = VOCABULARY.split()
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST] "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} [/INST]{% endfor %}"
)
DECODERS = {
    "mistral": lambda **sizes: MistralConfig(sliding_window=None, **sizes),
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
}


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def llava_next(
    folder: Path,
    *,
    seed: int = 0,
    decoder: str = "mistral",
    image_px: int = 28,
    context: int = 1024,
    width: int = 1,
    head_dim: int | None = None,
    layers: int = 2,
) -> Path:
    """Write a random LLaVA-1.6: 14 px patches, four query and two KV heads.

    `width` multiplies the channels.
    """
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32 * width,
        "intermediate_size": 48 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim or 8 * width,
        "max_position_embeddings": context,
        **FIRST_IDS,
    }
    text: PretrainedConfig = DECODERS[decoder](**sizes)
    vision = CLIPVisionConfig(
        hidden_size=24 * width,
        intermediate_size=32 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=image_px,
        patch_size=14,
        projection_dim=24 * width,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=WORDS.index("<image>"),
        image_grid_pinpoints=[[image_px, 2 * image_px]],
        image_seq_length=(image_px // 14) ** 2,
    )
    images = LlavaNextImageProcessorPil(
        size={"height": image_px, "width": image_px},
        crop_size={"height": image_px, "width": image_px},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return save(LlavaNextForConditionalGeneration(config), folder)
