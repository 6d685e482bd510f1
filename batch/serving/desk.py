"""One thread with the model: what is asked about one video at the same time is one batch."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from batch.answering import Answer, Turns, VideoAnswerer
from batch.answering.answerer import question_ids
from batch.errors import BatchError
from batch.serving.library import Video
from batch.serving.shelf import Shelf
from cachefmt import CacheFileError

GATHER_S = 0.005
"""What comes so soon behind a question joins its batch: clients that ask together are some
milliseconds apart. An answer takes longer by it."""

_log = logging.getLogger(__name__)


class FullError(Exception):
    """More is waiting than is allowed."""


@dataclass(eq=False, kw_only=True)
class Request:
    """A question, and who is told what comes of it.

    `tell` is called in the model's thread: with more of the text, and at the end with the answer or
    with the error. Once `is_gone` is set, nobody listens.
    """

    video: Video
    turns: Turns
    limit: int
    """Most tokens of the answer."""
    tell: Callable[[str | Answer | Exception], object]
    is_gone: threading.Event = field(default_factory=threading.Event)
    prompt_tokens: int = 0
    """Of the conversation with all that the template puts around it; known with the first word."""
    _has_begun: bool = False
    _is_over: bool = False

    def hear(self, more: str | Answer | Exception) -> None:
        self._has_begun = True
        self._is_over = self._is_over or not isinstance(more, str)
        self.tell(more)

    @property
    def is_new(self) -> bool:
        return not self._has_begun

    @property
    def is_over(self) -> bool:
        return self._is_over


class Desk:
    """Takes requests and answers them in turn; a context manager that ends the thread."""

    def __init__(self, shelf: Shelf, *, batch_size: int, most_waiting: int) -> None:
        self._shelf = shelf
        self._batch_size = batch_size
        self._most_waiting = most_waiting
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Queue a request; a FullError if too many wait."""
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                raise FullError(f"{self._most_waiting:,} questions are waiting already")
            self._waiting.append(request)
            self._changed.notify()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._serve(batch)
        for request in self._waiting:
            request.hear(_ENDING)
        self._shelf.close()

    def _next(self) -> list[Request] | None:
        """Those that wait for the video which waits longest; None: closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return None
            time.sleep(GATHER_S)
            with self._changed:
                waiting = [request for request in self._waiting if not request.is_gone.is_set()]
                batch = [one for one in waiting if one.video == waiting[0].video]
                batch = batch[: self._batch_size]
                self._waiting = deque(request for request in waiting if request not in batch)
            if batch:
                return batch

    def _serve(self, batch: list[Request]) -> None:
        """Answer questions about one video, of which nothing is held when others are loaded."""
        try:
            video = self._shelf.get(batch[0].video)
        except Exception as error:  # the boundary of one batch
            _tell(batch, error)
            return
        together = video.scope == "whole"
        for group in [batch] if together else [[request] for request in batch]:
            self._answer(video, group)

    def _answer(self, video: VideoAnswerer, group: list[Request]) -> None:
        try:
            for request in group:
                request.prompt_tokens = len(question_ids(self._shelf.family, request.turns))
            stream = video.stream([one.turns for one in group], [one.limit for one in group])
            for number, more in stream:
                group[number].hear(more)
                if self._is_closed:
                    raise _ENDING
                if all(request.is_gone.is_set() for request in group):
                    return
        except Exception as error:  # the boundary of one batch, and then of one question
            if len(group) == 1 or not all(request.is_new for request in group):
                _tell(group, error)
                return
            for request in group:
                self._answer(video, [request])


def _tell(requests: list[Request], error: Exception) -> None:
    """Tell all that are not over yet; what nobody foresaw goes into the log."""
    if not isinstance(error, _EXPECTED):
        _log.error("%s: cannot be answered", requests[0].video.name, exc_info=error)
    for request in requests:
        if not request.is_over:
            request.hear(error)


_ENDING = BatchError("the server is ending")
_EXPECTED = (BatchError, CacheFileError)
