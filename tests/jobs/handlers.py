"""Handlers for workers of tests; imported by the worker processes too."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from jobs.workers import Progress


def make_handler(progress: Progress) -> Callable[[Any], Any]:
    """Does what a task says."""
    opened_by = os.getpid()

    def work(task: tuple[str, Any]) -> Any:
        verb, value = task
        if verb == "unportable":
            raise Unportable(1, 2)
        if verb == "unreadable":
            raise Unreadable("x")
        if verb == "bytes":
            return bytes(value)
        if verb == "raise":
            raise value
        if verb == "signal":
            os.kill(os.getpid(), value)
        if verb == "leave":
            os._exit(value)
        if verb == "sleep":
            time.sleep(value)
        if verb == "get on":
            for _ in range(20):
                time.sleep(value / 20)
                progress()
        if verb == "environment":
            return os.environ.get(value)
        if verb == "mask":
            return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return {"pid": opened_by, "value": value}

    return work


class Unportable(Exception):
    """An error that cannot be sent to another process."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unreadable(Exception):
    """An error whose copy cannot be made of what was kept of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text * 2)
        if text != "x":
            raise OverflowError(text)


def fail_to_make_handler(progress: Progress) -> Callable[[Any], Any]:
    raise OSError("no handler")
