"""From what happened to a worker to a reason of the closed list."""

import signal

from batch.errors import BatchError, ContextError, Reason, VideoError
from cachefmt import CacheFileError
from jobs.workers import Died, Failure, Stuck


def reason_of(result: Failure) -> tuple[Reason, str]:
    """Why a task's video failed, and what to say of it."""
    if isinstance(result, Stuck):
        how = f"its process made no progress for {result.silent_s:,.0f} s and was killed"
        return Reason.WORKER_STUCK, f"{how}; a decoder, a disk or a device hangs"
    if isinstance(result, Died):
        if result.signal is signal.SIGKILL:
            return Reason.WORKER_KILLED, "its process was killed, as the kernel does without memory"
        how = "left by itself" if result.signal is None else f"was ended by {result.signal.name}"
        return Reason.WORKER_CRASHED, f"its process {how}, as by a fault in a decoder"
    error = result.error
    if isinstance(error, VideoError):
        return error.reason, str(error)
    if isinstance(error, ContextError):
        return Reason.TOO_LONG, str(error)
    if isinstance(error, MemoryError):
        return Reason.OUT_OF_MEMORY, str(error)
    if isinstance(error, BatchError | CacheFileError):
        return Reason.UNEXPECTED, str(error)
    return Reason.UNEXPECTED, f"{type(error).__name__}: {error}"
