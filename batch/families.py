"""The model families that are supported, for who must know them without torch.

How each works is in `batch.models`, a class by the same key; a checkpoint's family is the
`model_type` of its config.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from batch.settings import checkpoint_folder

PARITY_TRANSFORMERS = "5.23.0"
"""The version they are compared with. Another may lay out prompts or pictures differently."""


@dataclass(frozen=True, kw_only=True)
class KnownFamily:
    """What of a family is not supported or done otherwise, and a checkpoint of it to try."""

    limits: str
    checkpoint: str


_QWEN_LIMITS = (
    "two frames make a sample; cells follow the video's size within the processor's limits "
    "(min_pixels, max_pixels); "
)

KNOWN_FAMILIES = {
    "internvl": KnownFamily(
        limits="checkpoints in the layout of transformers (named -hf); video only, no images "
        "beside it",
        checkpoint="OpenGVLab/InternVL3-8B-hf",
    ),
    "llava": KnownFamily(
        limits="a video is many images, which the model was not trained for; no Pixtral or SigLIP "
        "tower (vision_feature_select_strategy 'full'), no padding to a square",
        checkpoint="llava-hf/llava-1.5-7b-hf",
    ),
    "llava_next": KnownFamily(
        limits="the base image alone, without the high-resolution tiles",
        checkpoint="llava-hf/llava-v1.6-mistral-7b-hf",
    ),
    "llava_next_video": KnownFamily(
        limits="video only, no images beside it; pooling of 2x2 patches",
        checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf",
    ),
    "llava_onevision": KnownFamily(
        limits="video only, no images beside it; vision towers without a class token",
        checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
    ),
    "qwen2_vl": KnownFamily(
        limits=_QWEN_LIMITS + "a question stands where transformers 5.23 puts it, which in long "
        "videos is not behind the last time, as it was until 5.2",
        checkpoint="Qwen/Qwen2-VL-7B-Instruct",
    ),
    "qwen2_5_vl": KnownFamily(
        limits=_QWEN_LIMITS + "the gaps of pointers stay; a question stands where transformers "
        "5.23 puts it, which in long videos is not behind the last time, as it was until 5.2",
        checkpoint="Qwen/Qwen2.5-VL-7B-Instruct",
    ),
    "qwen3_vl": KnownFamily(
        limits="two frames make a sample; cells follow the video's size and length within the "
        "processor's budget of pixels; no mixtures of experts",
        checkpoint="Qwen/Qwen3-VL-8B-Instruct",
    ),
    "smolvlm": KnownFamily(
        limits="video only, no images beside it; needs the package num2words, as transformers does",
        checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    ),
}
"""By the config's `model_type`."""


def unsupported(model_type: object) -> str:
    """What is wrong with a checkpoint of a family that we do not know."""
    return (
        f"model_type {model_type!r} is not supported; supported are "
        f"{', '.join(sorted(KNOWN_FAMILIES))}. CONTRIBUTING.md says in four steps how to add one."
    )


def problem_with_model(name: str) -> str | None:
    """What a look at its name, or at the config in its folder, says against a model; or None.

    What remains is told when it is opened.
    """
    folder = checkpoint_folder(name)
    if folder is not None:
        return _problem_with_config(folder / "config.json")
    if Path(name).exists():
        return "is a file, expected the folder of a checkpoint, a hub id, or demo"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return "no such folder"
    return None


def _problem_with_config(file: Path) -> str | None:
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        return "no checkpoint: the folder has no config.json"
    except (OSError, ValueError) as error:
        return f"no checkpoint: its config.json cannot be read: {error}"
    model_type = config.get("model_type") if isinstance(config, dict) else None
    return None if model_type in KNOWN_FAMILIES else unsupported(model_type)
