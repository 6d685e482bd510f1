"""Vision-language models: how each lays out a video, and how its weights are loaded.

One file a family; which one serves a checkpoint is decided by its config's `model_type`.
`open_model` and `open_family` read config and tokenizer only; weights come when they are loaded.
"""

from batch.models.checkpoint import Checkpoint, open_checkpoint
from batch.models.family import Family
from batch.models.opening import (
    FAMILIES,
    OpenModel,
    open_family,
    open_model,
)

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Family",
    "OpenModel",
    "open_checkpoint",
    "open_family",
    "open_model",
]
