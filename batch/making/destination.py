"""Where a video's cache goes, and what of a cache that is there stays or makes room."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batch.errors import BatchError
from batch.making.cache_plan import VideoPlan
from batch.making.header import first_difference, same_work
from cachefmt import CacheFile, CacheFileError, Header
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segment_path, segments_in

_UNFINISHED = re.compile(r"\.\d{5,}\.safetensors\.(?P<process>[1-9]\d{0,6})\.tmp")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """The two names of a video's cache, and the rule for what is there already.

    - file: of a video that fits the model's context; folder: of its segments, if it does not.
    - existing: "replace" makes all again. Else whole files of the same work stay, and what else is
      there is refused ("refuse") or made again ("repair").
    - staged: where a file is written before it gets its name; a cache of one file is left there,
      for the caller to name. None: beside its name.
    """

    file: Path
    folder: Path
    existing: Literal["refuse", "replace", "repair"] = "refuse"
    staged: Path | None = None

    @classmethod
    def named(cls, folder: Path, stem: str, *, force: bool = False) -> "Destination":
        """The cache of this name in a folder; `force` replaces whatever is there."""
        return cls(
            file=folder / f"{stem}{FILE_SUFFIX}",
            folder=folder / f"{stem}{FOLDER_SUFFIX}",
            existing="replace" if force else "refuse",
        )

    def cache(self, video: VideoPlan) -> Path:
        return self.folder if video.is_cut else self.file

    def path(self, video: VideoPlan, number: int) -> Path:
        return segment_path(self.folder, number) if video.is_cut else self.file

    def files(self, video: VideoPlan) -> list[Path]:
        """Where the files of a cache are when it is made; a staged one has not got its name."""
        if self.staged is not None and not video.is_cut:
            return [self.staged]
        return [self.path(video, number) for number in range(len(video.headers))]

    def block_samples(self) -> int | None:
        """Samples a block of what is there, the fewest: the memory had no room for more.

        None if nothing is there, or it is to be replaced.
        """
        if self.existing == "replace":
            return None
        return min([*_blocks_of(self.file), *_blocks_of(self.folder)], default=None)

    def to_do(self, video: VideoPlan) -> list[int]:
        """Numbers of the segments to be made; changes nothing.

        Raises:
            BatchError: another cache is there, and is to be refused.
            CacheFileError: something is there that is no cache, which nothing replaces.
        """
        other, own = _files(self._other(video)), _files(self.cache(video))
        if self.existing == "replace" or (self.staged is not None and not video.is_cut):
            return list(range(len(video.headers)))
        expected = self._expected(video)
        if self.existing == "refuse":
            for path in (*other, *own):
                there = _header(path)
                if path not in expected or not same_work(there, expected[path]):
                    differs = first_difference(there, expected.get(path, video.headers[0]))
                    raise BatchError(
                        f"{path}: already holds a cache of {there.video.name} by {there.model.id}, "
                        f"but of other work; {differs}; --force replaces it"
                    )
        done = {path for path in own if _is_done(path, expected)}
        return [number for number, path in enumerate(expected) if path not in done]

    def make_way(self, video: VideoPlan) -> None:
        """Remove what a plan replaces, so that segments never mix.

        To be called last before the first file is written. A file is left: the new one takes its
        name when it is whole.

        Raises:
            CacheFileError: as of `remove_cache`.
        """
        remove_cache(self._other(video))
        if not video.is_cut:
            return
        expected = {} if self.existing == "replace" else self._expected(video)
        with _removing(self.folder):
            for path in _files(self.folder):
                if not _is_done(path, expected):
                    path.unlink()

    def _other(self, video: VideoPlan) -> Path:
        return self.file if video.is_cut else self.folder

    def _expected(self, video: VideoPlan) -> dict[Path, Header]:
        """What each file of a plan will hold, in order."""
        return {self.path(video, number): header for number, header in enumerate(video.headers)}


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
    if process == os.getpid():  # it has finished all that it wrote
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


def _files(cache: Path) -> list[Path]:
    """The files of a cache that are there; a CacheFileError if something else has its name."""
    if not cache.exists():
        return []
    is_cut = cache.suffix == FOLDER_SUFFIX
    if is_cut and not cache.is_dir():
        what = "is no folder, but stands where a folder of segments goes; move it away"
        raise CacheFileError(cache, what)
    if not is_cut and cache.is_dir():
        raise CacheFileError(cache, "is a folder, but stands where a cache goes; move it away")
    return segments_in(cache) if is_cut else [cache]


def _blocks_of(cache: Path) -> Iterator[int]:
    """Samples a block of the files that are there and can be read."""
    with suppress(CacheFileError):
        for path in _files(cache):
            with suppress(BatchError):
                block_samples = _header(path).policy.parameters.get("block_samples")
                if isinstance(block_samples, int) and block_samples > 0:
                    yield block_samples


def _is_done(path: Path, expected: dict[Path, Header]) -> bool:
    with suppress(BatchError):
        return path in expected and same_work(_header(path), expected[path])
    return False


def _header(path: Path) -> Header:
    try:
        with CacheFile.open(path) as there:
            return there.header
    except CacheFileError as error:
        raise BatchError(f"{error}; --force replaces it") from error
