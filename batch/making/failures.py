"""From what happened to a video's work, in this process or a worker's, to its reason."""

import signal
from pathlib import Path

from batch.errors import BatchError, BudgetError, ContextError, Reason, VideoError
from cachefmt import CacheFileError
from jobs.errors import JobError
from jobs.workers import Died, Failure, Raised, Stuck

_OURS = BatchError | CacheFileError | JobError


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
        reason = error.reason
    elif isinstance(error, ContextError):
        reason = Reason.TOO_LONG
    elif isinstance(error, BudgetError):
        reason = Reason.OVER_BUDGET
    else:
        is_memory = isinstance(error, MemoryError)
        reason = Reason.OUT_OF_MEMORY if is_memory else Reason.UNEXPECTED
    is_plain = isinstance(error, _OURS) or (isinstance(error, MemoryError) and str(error))
    return reason, str(error) if is_plain else f"{type(error).__name__}: {error}"


def describe_failure(path: Path, result: Failure) -> str:
    """What to print of a failure; errors of ours name the file themselves."""
    what = reason_of(result)[1]
    is_named = isinstance(result, Raised) and isinstance(result.error, _OURS)
    return what if is_named else f"{path}: {what}"
