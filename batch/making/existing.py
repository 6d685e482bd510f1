"""What is there of a video's cache already: which of it stays, is refused, or makes room."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch.errors import BatchError
from batch.making.header import same_work
from batch.making.video import VideoPlan
from cachefmt import CacheFile, CacheFileError, Header
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segments_in

_UNFINISHED = re.compile(r"\.\d{5,}\.safetensors\.(?P<process>[1-9]\d{0,6})\.tmp")


def segments_to_do(video: VideoPlan, cache: Path, *, force: bool) -> list[int]:
    """Numbers of the segments that are not there yet; changes nothing.

    Args:
        cache: file or folder that the plan will become.
        force: do all again, whatever cache is there.

    Raises:
        BatchError: something else is there, and no `force`.
        CacheFileError: something is there that is no cache, which `force` does not replace either.
    """
    other, expected = _other_form(video, cache), _expected(video, cache)
    foreign, there = _files(other), _files(cache)
    if force:
        return list(range(len(video.headers)))
    for path in foreign:
        _refuse_other(path)
    for path in there:
        if not _is_done(path, expected):
            _refuse_other(path)
    return [number for number, path in enumerate(expected) if path not in there]


def remove_replaced(video: VideoPlan, cache: Path) -> None:
    """Remove the cache that a plan replaces, so that segments never mix.

    To be called last before the first file is written. A file is left: the new one takes its name
    when it is whole.

    Raises:
        CacheFileError: as of `remove_cache`.
    """
    remove_cache(_other_form(video, cache))
    if video.is_cut:
        remove_cache(cache)


def remove_foreign(video: VideoPlan, cache: Path) -> None:
    """Remove what is there of another version or cut, or damaged; segments of the plan stay.

    Raises:
        CacheFileError: as of `remove_cache`.
    """
    remove_cache(_other_form(video, cache))
    expected = _expected(video, cache)
    with _removing(cache):
        for path in _files(cache):
            if not _is_whole_and_done(path, expected):
                path.unlink()


def remove_cache(cache: Path) -> None:
    """Remove a cache file, or a folder of segments; nothing else that lies there.

    The folder stays if something hidden is in it that no writer left.

    Raises:
        CacheFileError: something that is no segment is there, and all is left as it was; or the
            system refuses.
    """
    files = _files(cache)
    with _removing(cache):
        for file in files:
            file.unlink()
        if cache.is_dir():
            remove_unfinished(cache)
            if not any(cache.iterdir()):
                cache.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder of segments; writers at work are let alone."""
    for file in folder.iterdir():
        match = _UNFINISHED.fullmatch(file.name)
        if match and not _is_at_work(int(match["process"])):
            file.unlink(missing_ok=True)


def _is_at_work(process: int) -> bool:
    """Whether another process lives; this one has finished all that it wrote."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextmanager
def _removing(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        raise CacheFileError(cache, f"cannot be removed: {what}") from error


def _other_form(video: VideoPlan, cache: Path) -> Path:
    """The folder where the plan becomes a file, and the other way round."""
    return cache.with_suffix(FILE_SUFFIX if video.is_cut else FOLDER_SUFFIX)


def _expected(video: VideoPlan, cache: Path) -> dict[Path, Header]:
    """What each file of a plan will hold, in order."""
    return {video.path(cache, number): header for number, header in enumerate(video.headers)}


def _files(cache: Path) -> list[Path]:
    """The files of a cache that are there.

    Raises:
        CacheFileError: what has this name is no cache.
    """
    if not cache.exists():
        return []
    if cache.suffix != FOLDER_SUFFIX:
        if cache.is_dir():
            raise CacheFileError(cache, "is a folder, but stands where a cache goes; move it away")
        return [cache]
    if not cache.is_dir():
        raise CacheFileError(
            cache, "is no folder, but stands where a folder of segments goes; move it away"
        )
    return segments_in(cache)


def _is_done(path: Path, expected: dict[Path, Header]) -> bool:
    try:
        with CacheFile.open(path) as there:
            return path in expected and same_work(there.header, expected[path])
    except CacheFileError as error:
        raise BatchError(f"{error}; --force replaces it") from error


def _is_whole_and_done(path: Path, expected: dict[Path, Header]) -> bool:
    try:
        return _is_done(path, expected)
    except BatchError:
        return False


def _refuse_other(path: Path) -> None:
    try:
        with CacheFile.open(path) as there:
            name = there.header.video.name
    except CacheFileError as error:
        raise BatchError(f"{error}; --force replaces it") from error
    raise BatchError(
        f"{path}: already holds a cache of {name} with another model, video or settings; "
        "--force replaces it"
    )
