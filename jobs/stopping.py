"""A polite request to stop, by signal. Knows no work."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what schedulers and systemd send; what Slurm is told to send before the time is up."""

STOPPED = 75
"""Exit code of a run that was stopped and goes on with the same command (EX_TEMPFAIL)."""


class Stop:
    """Whether, since when and by what this process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at_once = False
        """Asked twice: do not wait for what is under way."""
        self._since = 0.0

    @property
    def is_asked(self) -> bool:
        return self.signal is not None

    @property
    def waited_s(self) -> float:
        """Since the first signal; 0 without one."""
        return time.monotonic() - self._since if self.is_asked else 0.0

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        if self.is_asked:
            self.at_once = True
        else:
            self.signal, self._since = signal.Signals(number), time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the signals that ask a process to end into a request, until the block ends."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
