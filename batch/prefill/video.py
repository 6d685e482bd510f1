"""The cache of a whole video: a file if what is kept fits the model's context, else segments."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.models import Family
from batch.prefill.header import same_work
from batch.prefill.plan import Pointers, Positions
from batch.prefill.run import BLOCK_SAMPLES, Prefill, check_geometry, plan_cache
from batch.prefill.segments import Stretch, cut
from cachefmt import CacheFile, CacheFileError, Header
from cachefmt.layout import file_size
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segment_path, segments_in

_UNFINISHED = re.compile(r"\.\d{5,}\.safetensors\.\d+\.tmp")


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """The cache of a video about to be written, a segment at a time.

    Of each segment only the header is kept, which fixes its size: the plans of all together
    would grow with the video.
    """

    manifest: Manifest
    stretches: tuple[Stretch, ...]
    headers: tuple[Header, ...]
    """Of each segment; a video that fits the context is one."""
    plan: Callable[[Stretch], Prefill]

    @property
    def is_cut(self) -> bool:
        """Whether the cache is a folder of segments."""
        return len(self.headers) > 1

    @property
    def size_bytes(self) -> int:
        """Size of all files, exact."""
        return sum(map(file_size, self.headers))

    @property
    def suffix(self) -> str:
        """End of the cache's name."""
        return FOLDER_SUFFIX if self.is_cut else FILE_SUFFIX

    def segment(self, number: int) -> Prefill:
        """Plan a segment."""
        return self.plan(self.stretches[number])

    def path(self, cache: Path, number: int) -> Path:
        """Where a segment goes, in a cache of this name."""
        return segment_path(cache, number) if self.is_cut else cache

    def kept(self, number: int) -> int:
        """Samples of a segment that are no pointers."""
        return int(self.manifest.kept[self.stretches[number].rows].sum())


def plan_video(
    manifest: Manifest,
    family: Family,
    *,
    dtype: str,
    positions: Positions = "compact",
    pointers: Pointers = "multiplicity",
    block_samples: int = BLOCK_SAMPLES,
    identify_weights: bool = True,
) -> VideoPlan:
    """Plan the cache of a video, in as few segments as the model's context asks for.

    Arguments as of `plan_cache`.

    Raises:
        ManifestError: the manifest was made for pictures of another geometry.
        ContextError: a single sample does not fit the model's context.
    """
    check_geometry(manifest, family)
    context = family.decoder.context
    stretches = cut(manifest, family.layout, context=context, positions=positions)
    plan = partial(
        plan_cache,
        manifest,
        family,
        dtype=dtype,
        positions=positions,
        pointers=pointers,
        block_samples=block_samples,
        identify_weights=identify_weights,
    )
    return VideoPlan(
        manifest=manifest,
        stretches=tuple(stretches),
        headers=tuple(plan(stretch=stretch).header for stretch in stretches),
        plan=lambda stretch: plan(stretch=stretch),
    )


def segments_to_do(video: VideoPlan, cache: Path, *, force: bool) -> list[int]:
    """Numbers of the segments that are not there yet.

    Args:
        cache: file or folder that the plan will become.
        force: do all again; what another cut left is removed, so that segments never mix.

    Raises:
        BatchError: something else is there, and no `force`.
    """
    numbers = list(range(len(video.headers)))
    other = cache.with_suffix(FILE_SUFFIX if video.is_cut else FOLDER_SUFFIX)
    if force:
        remove_cache(other)
        if video.is_cut:  # a file is replaced when the new one is whole
            remove_cache(cache)
        return numbers
    for path in _files(other):
        _refuse_other(path)
    expected = {video.path(cache, number): number for number in numbers}
    there = _files(cache)
    for path in there:
        if path not in expected or not _is_done(path, video.headers[expected[path]]):
            _refuse_other(path)
    return [number for path, number in expected.items() if path not in there]


def remove_cache(cache: Path) -> None:
    """Remove a cache file, or a folder of segments; nothing else that lies there.

    Raises:
        CacheFileError: something that is no segment is in the folder; all is left as it was.
    """
    for file in _files(cache):
        file.unlink()
    if cache.is_dir():
        remove_unfinished(cache)
        cache.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder of segments, once all of them are there."""
    for file in folder.iterdir():
        if _UNFINISHED.fullmatch(file.name):
            file.unlink()


def _files(cache: Path) -> list[Path]:
    """The files of a cache that are there."""
    if cache.is_dir():
        return segments_in(cache)
    return [cache] if cache.exists() else []


def _is_done(path: Path, header: Header) -> bool:
    try:
        with CacheFile.open(path) as there:
            return same_work(there.header, header)
    except CacheFileError as error:
        raise BatchError(f"{error}; --force replaces it") from error


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
