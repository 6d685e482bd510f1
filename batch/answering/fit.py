"""Whether a model is the one that wrote a cache."""

from pathlib import Path

from batch.errors import ModelError
from batch.models import Family
from cachefmt import CacheFile


def check_fits(cache: CacheFile, family: Family, path: Path) -> None:
    """Refuse a model whose keys and values, words or pictures differ from the cache's.

    Args:
        path: what messages call the cache: its file, or the folder that it is a segment of.

    Raises:
        ModelError: names the part that differs and the two ways out, or cells that no video has.
    """
    model, prompt, checkpoint = cache.header.model, cache.header.prompt, family.checkpoint
    parts = (
        ("config", model.config_sha256, checkpoint.config_sha256),
        ("weights", model.weights_sha256, checkpoint.weights_sha256),
        ("processor", prompt.processor_sha256, checkpoint.processor_sha256),
        ("chat template", prompt.chat_template_sha256, checkpoint.chat_template_sha256),
    )
    for part, written, got in parts:
        if written != got:
            raise ModelError(
                f"{path}: written with {model.id} ({part} {written[:8]}), "
                f"but {checkpoint.name} has {part} {got[:8]}.\n"
                f"Answer with the model that wrote it:  "
                f"batch answer --cache {path}\n"
                f"or write it again:                    "
                f"batch prefill --force --model {checkpoint.name} --out {path.parent} "
                f"{cache.header.video.name}"
            )
    shape = cache.header.shape
    if not family.geometry.may_have(shape.rows, shape.columns):
        raise ModelError(
            f"{path}: samples of {shape.rows}x{shape.columns} cells, which {checkpoint.name} "
            "gives no video; batch prefill --force writes it again"
        )
