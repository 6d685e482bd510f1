"""Vision-language models: how each lays out a video, and how its weights are loaded.

One file a family; which one serves a checkpoint is decided by its config's `model_type`.
`open_checkpoint` reads config and tokenizer only; weights come with `Family.load`.
"""

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint, open_checkpoint
from batch.models.family import Family
from batch.models.internvl import InternVL
from batch.models.llava import Llava
from batch.models.llava_next import LlavaNext
from batch.models.llava_next_video import LlavaNextVideo
from batch.models.llava_onevision import LlavaOnevision
from batch.models.qwen2_5_vl import Qwen2_5VL
from batch.models.qwen2_vl import Qwen2VL
from batch.models.qwen3_vl import Qwen3VL
from batch.models.smolvlm import SmolVLM

__all__ = [
    "FAMILIES",
    "PARITY_TRANSFORMERS",
    "Checkpoint",
    "Family",
    "open_checkpoint",
    "open_family",
]

FAMILIES: dict[str, type[Family]] = {
    "internvl": InternVL,
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_next_video": LlavaNextVideo,
    "llava_onevision": LlavaOnevision,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2_5VL,
    "qwen3_vl": Qwen3VL,
    "smolvlm": SmolVLM,
}
"""By the config's `model_type`; tests compare the scores of each with transformers' own."""

PARITY_TRANSFORMERS = "5.23.0"
"""The version they are compared with. Another may lay out prompts or pictures differently."""


def open_family(name: str, *, revision: str | None = None, offline: bool = False) -> Family:
    """Open a checkpoint with the family that its `model_type` names.

    Args:
        name: "demo", a folder, or an id on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        offline: use only what is on this machine.

    Raises:
        ModelError: nothing there, not a checkpoint, or a family we do not know.
    """
    checkpoint = open_checkpoint(name, revision=revision, offline=offline)
    family = FAMILIES.get(checkpoint.config.model_type)
    if family is None:
        raise ModelError(
            f"{name}: model_type {checkpoint.config.model_type!r} is not supported; "
            f"supported are {', '.join(sorted(FAMILIES))}. "
            "CONTRIBUTING.md says in four steps how to add one."
        )
    return family(checkpoint)
