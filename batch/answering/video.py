"""Questions about one video, whatever its cache is: a file or a folder of segments."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from batch.answering.answerer import Loading, Reply
from batch.answering.everywhere import ask_everywhere
from batch.answering.fit import check_fits
from batch.answering.opening import load_writer
from batch.answering.placed import Answerer
from batch.answering.retrieval import BUDGET_TOKENS, Retriever
from batch.errors import BatchError
from batch.kv import Kernel
from batch.models import Family
from cachefmt import CacheFile, CacheFileError, open_segments, read_cost

Scope = Literal["auto", "everything", "retrieve", "all"]
"""What of a video answers: "everything" is the one segment there is, "retrieve" the samples that
the question is about, "all" each segment for itself. "auto" is everything, or of several segments
retrieve (all, where there is no index)."""


class VideoAnswerer:
    """Answers questions about one video from its cache. A context manager that closes it."""

    def __init__(
        self,
        segments: Sequence[CacheFile],
        family: Family,
        path: Path,
        *,
        scope: Scope = "auto",
        budget_tokens: int = BUDGET_TOKENS,
        open_seconds: float = 0.0,
    ) -> None:
        """Use the segments of a video, as `open_checked` gives them, with the loaded model.

        Args:
            path: what messages call the cache: its file or folder.
            budget_tokens: loaded for a question at most where samples are retrieved; of scope "all"
                in each segment.
            open_seconds: what opening them took, for `loading`.

        Raises:
            CacheFileError: an index that is needed, or what the cache cost, is damaged.
            ModelError: another model wrote the cache.
            BatchError: nothing can be retrieved, since the cache has no index; or "everything" of
                several segments.
        """
        check_fits(segments[0], family, path)
        started = time.perf_counter()
        self.scope = _resolve(scope, segments, path)
        self._segments = segments
        self._family = family
        self._budget_tokens = budget_tokens
        self._retriever: Retriever | None = None
        load_bytes = sum(segment.size_bytes for segment in segments)
        if self.scope == "retrieve":
            self._retriever = Retriever(
                segments, family, budget_tokens=budget_tokens, name=str(path)
            )
            load_bytes = self._retriever.index_bytes
        self.loading = Loading(
            load_seconds=open_seconds + time.perf_counter() - started,
            load_bytes=load_bytes,
            reencode_seconds=float(sum(read_cost(segment).sum() for segment in segments)),
        )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        scope: Scope = "auto",
        budget_tokens: int = BUDGET_TOKENS,
        model: str | None = None,
        device: str | None = "cpu",
        dtype: str | None = None,
        attention: Kernel = "auto",
        offline: bool = False,
    ) -> Self:
        """Open a cache and load the model that wrote it; arguments as of `load_writer`.

        Raises:
            CacheFileError: it is no cache, or damaged.
            BatchError: "everything" of several segments.
            ModelError: the model is not there, or is not the one that wrote the cache.
        """
        started = time.perf_counter()
        segments = open_checked(path, scope)
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
        return cls(
            segments,
            family,
            path,
            scope=scope,
            budget_tokens=budget_tokens,
            open_seconds=open_seconds,
        )

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

    def ask(
        self,
        questions: Iterable[str],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
    ) -> Iterator[Reply]:
        """Answer questions in order.

        Of scope "all" they are `ChosenReply`, when all are known; of scope "retrieve"
        `RetrievedReply`, one at a time whatever the batch size.

        Raises:
            BatchError: as of `PrefixAnswerer.ask` and `Retriever.ask`.
            CacheFileError: rows that are read are damaged.
        """
        if self._retriever is not None:
            yield from self._retriever.ask(questions, max_new_tokens=max_new_tokens)
            return
        limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        if self.scope == "all":
            yield from ask_everywhere(
                self._segments,
                self._family,
                questions,
                budget_tokens=self._budget_tokens,
                **limits,
            )
            return
        (only,) = self._segments
        yield from Answerer(only, self._family).ask(questions, **limits)


def open_checked(path: Path, scope: Scope) -> tuple[CacheFile, ...]:
    """Open a cache, file or folder, and check what is read of it anyway.

    Retrieving checks the rows that it needs, when it reads them.

    Raises:
        CacheFileError: it is no cache, or damaged, or a segment has no samples.
        BatchError: "everything" of several segments.
    """
    segments = open_segments(path)
    for segment in segments:
        if not segment.header.shape.samples:
            raise CacheFileError(segment.path, "holds no samples of a video; ask another cache")
    if _resolve(scope, segments, path) != "retrieve":
        for segment in segments:
            segment.verify_tables()
            segment.release()
    return segments


def _resolve(scope: Scope, segments: Sequence[CacheFile], path: Path) -> Scope:
    if scope == "everything" and len(segments) > 1:
        raise BatchError(
            f"{path}: {len(segments)} segments fit no context together; "
            'got scope "everything", expected "auto", "retrieve" or "all"'
        )
    if scope != "auto":
        return scope
    if len(segments) == 1:
        return "everything"
    return "retrieve" if segments[0].header.shape.index_layers else "all"
