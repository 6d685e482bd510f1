"""Configs of published checkpoints, cut down to what sizes follow from.

The numbers are those of each checkpoint's config.json and processor files on the hub.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from batch.models import FAMILIES, Checkpoint, Family


def _decoder(
    model_type: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **others: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


VICUNA_7B = _decoder(
    "llama", 4096, 11008, 32, 32, 32, vocab_size=32064, max_position_embeddings=4096
)
MISTRAL_7B = _decoder(
    "mistral",
    *(4096, 14336, 32, 32, 8),
    vocab_size=32064,
    max_position_embeddings=32768,
    sliding_window=None,
)
QWEN2_7B = _decoder("qwen2", 3584, 18944, 28, 28, 4, max_position_embeddings=32768)
CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN3_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "out_hidden_size": 4096,
    "deepstack_visual_indexes": [8, 16, 24],
}
CROPPED = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint of the hub."""

    model_type: str
    config: dict[str, Any]
    processor: dict[str, Any]

    def family(self, name: str) -> Family:
        """It as an opened checkpoint without tokenizer and files."""
        settings = {"image_processor": self.processor, "video_processor": self.processor}
        checkpoint = Checkpoint(
            name=name,
            folder=Path(name),
            revision=None,
            offline=True,
            config=AutoConfig.for_model(self.model_type, **self.config),
            tokenizer=None,
            chat_template="",
            processor=settings,
        )
        return FAMILIES[self.model_type](checkpoint)


PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": Published(
        model_type="llava",
        config={"text_config": VICUNA_7B, "vision_config": CLIP_L},
        processor=CROPPED,
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": Published(
        model_type="llava_next",
        config={"text_config": MISTRAL_7B, "vision_config": CLIP_L},
        processor=CROPPED,
    ),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": Published(
        model_type="llava_next_video",
        config={"text_config": VICUNA_7B, "vision_config": CLIP_L},
        processor=CROPPED,
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Published(
        model_type="llava_onevision",
        config={"text_config": {**QWEN2_7B, "vocab_size": 152_128}, "vision_config": SIGLIP},
        processor={},
    ),
    "Qwen/Qwen2-VL-7B-Instruct": Published(
        model_type="qwen2_vl",
        config={
            "text_config": {**QWEN2_7B, "model_type": "qwen2_vl_text", "vocab_size": 152_064},
            "vision_config": {"embed_dim": 1280, "hidden_size": 3584, "depth": 32},
        },
        processor={"min_pixels": 3136, "max_pixels": 12_845_056},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published(
        model_type="qwen2_5_vl",
        config={
            "text_config": {
                **QWEN2_7B,
                "model_type": "qwen2_5_vl_text",
                "vocab_size": 152_064,
                "max_position_embeddings": 128_000,
            },
            "vision_config": {
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "out_hidden_size": 3584,
            },
        },
        processor={"min_pixels": 3136, "max_pixels": 12_845_056},
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Published(
        model_type="qwen3_vl",
        config={
            "text_config": _decoder(
                "qwen3_vl_text",
                *(4096, 12288, 36, 32, 8),
                head_dim=128,
                vocab_size=151_936,
                max_position_embeddings=262_144,
            ),
            "vision_config": QWEN3_TOWER,
        },
        processor={"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}},
    ),
    "OpenGVLab/InternVL3-8B-hf": Published(
        model_type="internvl",
        config={
            "text_config": {**QWEN2_7B, "vocab_size": 151_674},
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": [448, 448],
                "patch_size": [14, 14],
            },
            "tie_word_embeddings": False,
        },
        processor={"size": {"height": 448, "width": 448}},
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Published(
        model_type="smolvlm",
        config={
            "text_config": _decoder(
                "llama",
                *(2048, 8192, 24, 32, 32),
                vocab_size=49_280,
                max_position_embeddings=8192,
            ),
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
            },
            "scale_factor": 3,
        },
        processor={
            "max_image_size": {"longest_edge": 384},
            "video_sampling": {"video_size": {"longest_edge": 1536}},
        },
    ),
}
