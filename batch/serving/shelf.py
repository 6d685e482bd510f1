"""Caches in memory: loaded when they are asked, let go by use."""

from collections import OrderedDict
from pathlib import Path

from batch.answering import AnswerSettings, VideoAnswerer, open_cache
from batch.answering.opening import resolve
from batch.answering.samples import KEPT_BYTES
from batch.errors import BatchError
from batch.models import Family
from batch.serving.library import Video
from cachefmt import CacheFile, Tier, open_segments
from cachefmt.layout import kv_bytes, token_bytes


class Shelf:
    """Open caches, those asked last at the end; of one thread."""

    def __init__(self, family: Family, settings: AnswerSettings, memory_bytes: int) -> None:
        """memory_bytes: what the keys and values of all open caches may take together."""
        self.family = family
        self._settings = settings
        self._memory_bytes = memory_bytes
        self._open: OrderedDict[Path, tuple[VideoAnswerer, int]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return sum(size for _, size in self._open.values())

    def get(self, video: Video) -> VideoAnswerer:
        """The open cache of a video; others are let go if it needs their room.

        Raises:
            BatchError, CacheFileError: it cannot be used, or is larger than all the memory.
        """
        if video.cache not in self._open:
            size = self._size_of(video.cache)
            if size > self._memory_bytes:
                raise BatchError(
                    f"{video.cache}: takes {size:,} bytes of memory, and --memory allows "
                    f"{self._memory_bytes:,} for all caches"
                )
            while self.held_bytes + size > self._memory_bytes:
                self._let_go()
            opened = open_cache(video.cache, model=self.family, settings=self._settings)
            self._open[video.cache] = opened, size
        self._open.move_to_end(video.cache)
        return self._open[video.cache][0]

    def close(self) -> None:
        while self._open:
            self._let_go()

    def _let_go(self) -> None:
        """Of the one asked longest ago nothing is left in memory."""
        self._open.popitem(last=False)[1][0].close()

    def _size_of(self, path: Path) -> int:
        segments = open_segments(path)
        try:
            return self._needed_bytes(segments, path)
        finally:
            for segment in segments:
                segment.close()

    def _needed_bytes(self, segments: tuple[CacheFile, ...], path: Path) -> int:
        shape = segments[0].header.shape
        scope = resolve(self._settings.scope, segments, path)
        if scope == "whole":
            return kv_bytes(shape)
        of_budget = self._settings.budget_tokens * token_bytes(shape, Tier.FP16)
        if scope == "retrieve":
            return KEPT_BYTES + of_budget
        return KEPT_BYTES + max(of_budget, *(kv_bytes(one.header.shape) for one in segments))
