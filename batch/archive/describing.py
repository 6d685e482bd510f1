"""What a model says of itself. Imports torch, so it runs in a process of its own."""

from batch.archive.identity import ModelFacts
from batch.archive.tasks import Describe
from batch.making.run import BLOCK_SAMPLES
from batch.models import open_family
from batch.models.device import choose_device, choose_dtype


def describe(task: Describe) -> ModelFacts:
    """Look at a model without loading its weights.

    Raises:
        ModelError: the model cannot be used, or not on this device.
    """
    settings = task.settings
    family = open_family(settings.model, revision=settings.revision, offline=settings.offline)
    checkpoint = family.checkpoint
    if settings.timestamps:
        family.use_timestamps()
    weights_sha256 = dtype = block_samples = None
    if task.weights:
        weights_sha256 = checkpoint.weights_sha256
        dtype = choose_dtype(settings.dtype, choose_device(task.device), checkpoint)
        block_samples = settings.block_samples or BLOCK_SAMPLES
    return ModelFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        geometry=family.geometry,
        config_sha256=checkpoint.config_sha256,
        processor_sha256=checkpoint.processor_sha256,
        chat_template_sha256=checkpoint.chat_template_sha256,
        weights_sha256=weights_sha256,
        dtype=dtype,
        block_samples=block_samples,
    )
