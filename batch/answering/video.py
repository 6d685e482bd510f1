"""Questions about one video, whatever its cache is: a file or a folder of segments."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from batch.answering.answerer import Answerer, Loading, Reply
from batch.answering.everywhere import ask_everywhere
from batch.answering.fit import check_fits
from batch.answering.opening import load_writer
from batch.kv import Kernel
from batch.models import Family
from batch.models.placement import Device
from cachefmt import CacheFile, open_segments

Scope = Literal["auto", "everything", "all"]
"""What of a video answers: "everything" is the one segment there is, "all" each segment for
itself; "auto" chooses by their number."""


class VideoAnswerer:
    """Answers questions about one video from its cache. A context manager that closes it."""

    def __init__(
        self, segments: Sequence[CacheFile], family: Family, *, open_seconds: float = 0.0
    ) -> None:
        """Use the open segments of a video with the loaded model that wrote them.

        Args:
            open_seconds: what opening them took, for `loading`.
        """
        self._segments = segments
        self._family = family
        self.loading = Loading(
            load_seconds=open_seconds,
            load_bytes=sum(segment.size_bytes for segment in segments),
            reencode_seconds=float(sum(s.array("cost.seconds").sum() for s in segments)),
        )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        model: str | None = None,
        device: Device = "cpu",
        dtype: str | None = None,
        attention: Kernel = "auto",
        offline: bool = False,
    ) -> Self:
        """Open a cache and load the model that wrote it; arguments as of `load_writer`.

        Raises:
            CacheFileError: it is no cache, or damaged.
            ModelError: the model is not there, or is not the one that wrote the cache.
        """
        started = time.perf_counter()
        segments = open_checked(path)
        open_seconds = time.perf_counter() - started
        family = load_writer(
            segments[0],
            path,
            model=model,
            device=device,
            dtype=dtype,
            attention=attention,
            offline=offline,
        )
        return cls(segments, family, open_seconds=open_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for segment in self._segments:
            segment.close()

    def check_fits(self, path: Path) -> None:
        """Refuse a model that did not write the cache at this path.

        Raises:
            ModelError: names the part that differs and the two ways out.
        """
        check_fits(self._segments[0], self._family, path)

    def scope_of(self, scope: Scope) -> Scope:
        """What a scope means for this video."""
        if scope != "auto":
            return scope
        return "all" if len(self._segments) > 1 else "everything"

    def ask(
        self,
        questions: Iterable[str],
        *,
        scope: Scope = "auto",
        max_new_tokens: int = 64,
        batch_size: int = 16,
    ) -> Iterator[Reply]:
        """Answer questions in order; of scope "all" they are `ChosenReply`, when all are known.

        Raises:
            BatchError: as of `PrefixAnswerer.ask`.
            ValueError: "everything" of a video in several segments, which fit no context.
        """
        limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        if self.scope_of(scope) == "all":
            yield from ask_everywhere(self._segments, self._family, questions, **limits)
            return
        (only,) = self._segments
        yield from Answerer(only, self._family).ask(questions, **limits)


def open_checked(path: Path) -> tuple[CacheFile, ...]:
    """Open a cache, file or folder, and check what a reader of rows relies on.

    Raises:
        CacheFileError: it is no cache, or damaged.
    """
    segments = open_segments(path)
    for segment in segments:
        segment.verify_tables()
        segment.release()
    return segments
