"""From a cache on disk to what answers need: files checked, scope decided, its model loaded."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from batch.errors import BatchError, DeviceError, ModelError
from batch.models import Family, OpenModel, open_model
from batch.settings import Scope, WriterSettings
from cachefmt import CacheFile, CacheFileError, open_segments


def open_checked(path: Path, scope: Scope) -> tuple[CacheFile, ...]:
    """Open a cache, file or folder, and check that it can answer; its tables are read."""
    with ExitStack() as opened:
        segments = open_segments(path)
        for segment in segments:
            opened.enter_context(segment)
        for segment in segments:
            if not segment.header.shape.samples:
                raise CacheFileError(segment.path, "holds no samples of a video; ask another cache")
            _ = segment.tables  # checked, and kept
        resolve(scope, segments, path)
        opened.pop_all()
    return segments


def resolve(scope: Scope, segments: Sequence[CacheFile], path: Path) -> Scope:
    """What "auto" is of these segments; any other scope is itself, if it can be."""
    if scope == "whole" and len(segments) > 1:
        raise BatchError(
            f"{path}: {len(segments)} segments fit no context together; "
            'got scope "whole", expected "auto", "retrieve" or "each-segment"'
        )
    if scope != "auto":
        return scope
    if len(segments) == 1:
        return "whole"
    return "retrieve" if segments[0].header.shape.index_layers else "each-segment"


def check_fits(cache: CacheFile, family: Family, path: Path) -> None:
    """Refuse a model whose keys and values, words or pictures differ from the cache's.

    Args:
        path: what messages call the cache: its file, or the folder that it is a segment of.
    """
    model, prompt, checkpoint = cache.header.model, cache.header.prompt, family.checkpoint
    for part, written, got in (
        ("config", model.config_sha256, checkpoint.config_sha256),
        ("weights", model.weights_sha256, checkpoint.weights_sha256),
        ("processor", prompt.processor_sha256, checkpoint.processor_sha256),
        ("chat template", prompt.chat_template_sha256, checkpoint.chat_template_sha256),
    ):
        if written != got:
            raise ModelError(
                f"{path}: written with {model.id} ({part} {written[:8]}), "
                f"but {checkpoint.name} has {part} {got[:8]}.\n"
                f"Answer with the model that wrote it:  "
                f"batch answer {path}\n"
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


def open_writer(cache: CacheFile, path: Path, how: WriterSettings) -> OpenModel:
    """Open the model that wrote a cache, without its weights."""
    written = cache.header.model
    try:
        settings = how.of(name=written.id, revision=written.revision, dtype=written.dtype)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        opened = open_model(settings)
    except ModelError as error:
        if how.model is not None or isinstance(error, DeviceError):
            raise
        raise ModelError(
            f"{path}: {error}\nThat model wrote it. If it is elsewhere now:  "
            f"batch answer {path} --model FOLDER"
        ) from error
    check_fits(cache, opened.family, path)
    return opened
