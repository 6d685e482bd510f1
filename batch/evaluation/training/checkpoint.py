"""The demo model's architecture, tokenizer and processor, as an ordinary checkpoint folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from batch.demo.world import COLOURS, COLUMNS, GROUNDS, ROWS, SHAPES

SIZE_PX = 112
PATCH_PX = 14
CELLS = (SIZE_PX // PATCH_PX) ** 2
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_WORDS = (
    "what which where how many describe colour digit shape is are was does the a an and or on "
    "there first last after before came shown comes scene start end thing ? , . spark bead dots "
    "user assistant"
)
_VOCABULARY = (*_WORDS.split(), *SHAPES, *COLOURS, *GROUNDS, *ROWS, *COLUMNS, *"0123456789")
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %} user "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %} assistant {% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Make the word tokenizer of the closed vocabulary; other words become <unk>."""
    words = [*SPECIAL, *_VOCABULARY]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in 5.23
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def new_model(vocabulary: int) -> LlavaNextForConditionalGeneration:
    """Build the untrained LLaVA-NeXT: CLIP tower 128 x 4, Mistral decoder 192 x 5, 6:2 heads."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE_PX,
        patch_size=PATCH_PX,
        projection_dim=128,
    )
    text = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        sliding_window=None,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlavaNextForConditionalGeneration(llava_config(vision, text))


def llava_config(
    vision: CLIPVisionConfig,
    text: PreTrainedConfig,
    *,
    side_px: int = SIZE_PX,
    vision_layer: int = -1,
) -> LlavaNextConfig:
    """A LLaVA-NeXT that sees one square picture a sample, with the demo's special tokens."""
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=vision_layer,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=[[side_px, side_px]],
        image_seq_length=(side_px // PATCH_PX) ** 2,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def new_processor(tokenizer: PreTrainedTokenizerFast, size_px: int = SIZE_PX) -> LlavaNextProcessor:
    """Pair the tokenizer with an image processor of the model's picture size."""
    size = {"height": size_px, "width": size_px}
    images = LlavaNextImageProcessorPil(
        size=size, crop_size=size, image_grid_pinpoints=[[size_px, size_px]]
    )
    return LlavaNextProcessor(  # type: ignore[no-untyped-call]  # untyped in 5.23
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT_TEMPLATE,
    )


def save_checkpoint(model: LlavaNextForConditionalGeneration, folder: Path) -> None:
    """Write the checkpoint in bfloat16, with tokenizer, processor and chat template."""
    new_processor(new_tokenizer()).save_pretrained(folder)
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
