"""What a model says of itself. Imports torch, so it runs in a process of its own."""

from dataclasses import replace

from batch.archive.model_facts import ModelFacts
from batch.archive.tasks import Describe
from batch.making.cache_plan import BLOCK_SAMPLES
from batch.models import open_model


def describe(task: Describe) -> ModelFacts:
    """Look at a model without loading its weights.

    Raises:
        ModelError: the model cannot be used, or not on this device.
    """
    chosen, cache = task.settings.model, task.settings.cache
    # Who only analyses may do so without the device that prefills.
    device = task.device if task.weights else "cpu"
    model = open_model(replace(chosen, device=device))
    if cache.timestamps:
        model.family.use_timestamps()
    checkpoint = model.family.checkpoint
    return ModelFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        geometry=model.family.geometry,
        config_sha256=checkpoint.config_sha256,
        processor_sha256=checkpoint.processor_sha256,
        chat_template_sha256=checkpoint.chat_template_sha256,
        weights_sha256=checkpoint.weights_sha256 if task.weights else None,
        dtype=model.dtype if task.weights else None,
        block_samples=(cache.block_samples or BLOCK_SAMPLES) if task.weights else None,
    )
