"""Where calibrations lie: beside the caches that name them by digest, or in a folder above."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cachefmt.calibration import Calibration, read_calibration_header
from cachefmt.files import CacheFileError, naming
from cachefmt.header import Header, ModelIdentity, PromptIdentity

SUFFIX = ".calibration.safetensors"
"""End of the name of a calibration."""
_FOLDERS_ABOVE = 5
"""A segment of an archive lies so deep below the folder of all caches."""


class MissingCalibrationError(CacheFileError):
    """A cache names a calibration that is not there; the cache itself may be whole."""


def calibration_path(folder: Path, model: str) -> Path:
    """Where the calibration of a model lies in a folder; a model's name may be a path or an id."""
    return folder / f"{Path(model).name}{SUFFIX}"


def has_calibrations(folder: Path) -> bool:
    """Whether any lies in a folder, of whatever model."""
    return next(_calibrations_in(folder), None) is not None


def holds_calibration(folder: Path, sha256: str) -> bool:
    """Whether the calibration with this digest lies in a folder, whatever it is called."""
    for path in _calibrations_in(folder):
        with suppress(CacheFileError):
            if calibration_digest(path) == sha256:
                return True
    return False


def find_calibration(folder: Path, model: ModelIdentity, prompt: PromptIdentity) -> Path | None:
    """The calibration of a model and prompt in a folder, for caches that are about to be written.

    Of several that of the model's name.

    Raises:
        CacheFileError: the header of the one of the model's name is damaged, or of a newer format;
            whatever is wrong with another is of no concern here.
    """
    usual = calibration_path(folder, model.id)
    for path in sorted(_calibrations_in(folder), key=lambda path: path != usual):
        try:
            header = read_calibration_header(path)
        except CacheFileError:
            if path == usual:
                raise
            continue
        if header.is_of(model, prompt):
            return path
    return None


def calibration_of(cache: Path, header: Header) -> Calibration:
    """The calibration that a cache names, beside it or in a folder above, as an archive has it.

    Args:
        cache: a file, or a folder of segments; header: of it, or of one of them.

    Raises:
        MissingCalibrationError: there is none of this digest.
        CacheFileError: it cannot be read; or the cache is no cache of its model.
    """
    calibration = _find_named(cache, header.codec.calibration or "")
    mine, theirs = calibration.header, header.shape
    sizes = ("layers", "heads", "head_dim")
    is_same = all(getattr(mine.shape, name) == getattr(theirs, name) for name in sizes)
    codec = header.codec
    text_tokens = len(mine.text_ids) if mine.shape.raw_dtype == theirs.raw_dtype else 0
    if (
        not (is_same and mine.is_of(header.model, header.prompt))
        or codec.group_layers != mine.shape.group_layers
        or codec.text_tokens > text_tokens
    ):
        raise CacheFileError(
            cache, f"names the calibration {calibration.path}, which is not about its model"
        )
    return calibration


def _find_named(cache: Path, sha256: str) -> Calibration:
    others = []
    folders = list(itertools.islice(cache.absolute().parents, _FOLDERS_ABOVE + 1))
    linked = itertools.islice(cache.resolve().parents, _FOLDERS_ABOVE + 1)
    for path in itertools.chain.from_iterable(
        map(_calibrations_in, dict.fromkeys([*folders, *linked]))
    ):
        try:
            found = calibration_digest(path)
        except (
            CacheFileError
        ) as error:  # of somebody else, maybe: the one that is needed may follow
            others.append(str(error))
            continue
        if found == sha256:
            return _open_once(path, sha256)
        others.append(f"{path} has {found[:8]}")
    there = f" ({'; '.join(others)})" if others else ""
    raise MissingCalibrationError(
        cache,
        f"needs the calibration with SHA-256 {sha256[:8]}..., which is neither beside it nor in a "
        f"folder above, up to {folders[-1]}{there}: it was moved, changed or removed. Put it back, "
        "or make the cache again:  batch prefill --force",
    )


def _calibrations_in(folder: Path) -> Iterator[Path]:
    """In order of name; hidden files are unfinished."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield folder / name


def calibration_digest(path: Path) -> str:
    """SHA-256 of a file; computed once as long as it is the same."""
    with naming(path):
        found = path.stat()
        return _digest_of(path, (found.st_size, found.st_mtime_ns, found.st_ino))


@lru_cache(maxsize=64)
def _digest_of(path: Path, version: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _open_once(path: Path, sha256: str) -> Calibration:
    """All caches of an archive name the same."""
    calibration = Calibration.open(path)
    if calibration.sha256 != sha256:
        raise CacheFileError(path, "changed while it was read")
    return calibration
