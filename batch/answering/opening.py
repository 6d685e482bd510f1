"""From a cache to the loaded model that wrote it."""

from pathlib import Path

from batch.answering.fit import check_fits
from batch.errors import DeviceError, ModelError
from batch.models import Family, open_model
from batch.settings import Attention, ModelSettings
from cachefmt import CacheFile


def load_writer(
    cache: CacheFile,
    path: Path,
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attention: Attention = "auto",
    offline: bool = False,
) -> Family:
    """Load the model that wrote a cache.

    Args:
        path: what the person gave: that file, or the folder it lies in.
        model: where that model is; None is where it was when the cache was written.
        device: as for `Family.load`.
        dtype: floating point type to run in; None is the one of the prefill.
        attention: what attends to the stored tiers.
        offline: use only what is on this machine.

    Raises:
        ModelError: the model is not there, or is not the one that wrote the cache.
    """
    written = cache.header.model
    try:
        opened = open_model(
            ModelSettings(
                name=model or written.id,
                revision=None if model else written.revision,
                offline=offline,
                device=device,
                dtype=dtype or written.dtype,
                attention=attention,
            )
        )
    except DeviceError:
        raise
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"{path}: {error}\nThat model wrote it. If it is elsewhere now:  "
            f"batch answer --cache {path} --model FOLDER"
        ) from error
    check_fits(cache, opened.family, path)
    return opened.load()
