"""Errors a person can act on. Each message names the file, what is wrong, and the way out."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a video has no cache: the whole list, as records and the catalogue have it."""

    UNREADABLE = "unreadable"
    """The file cannot be read, or is no file."""
    EMPTY = "empty"
    NOT_VIDEO = "not_video"
    """Something else under the name of a video, or cut off before its index."""
    NO_PICTURE = "no_picture"
    """Only sound or subtitles."""
    NO_DECODER = "no_decoder"
    """FFmpeg does not know its codec."""
    ENCRYPTED = "encrypted"
    """Encrypted or scrambled."""
    UNDECODABLE = "undecodable"
    """Not one frame can be decoded, or fewer than one in ten."""
    CHANGING = "changing"
    """Something wrote to the file while it was read."""
    TOO_LONG = "too_long"
    """What is kept of it does not fit the model's context."""
    OVER_BUDGET = "over_budget"
    """No thresholds and no step of the codec keep its budget."""
    OUT_OF_MEMORY = "out_of_memory"
    """It does not fit the memory, even in the smallest blocks."""
    WORKER_KILLED = "worker_killed"
    """The kernel ended the process that worked on it, as it does when memory runs out."""
    WORKER_CRASHED = "worker_crashed"
    """The process that worked on it ended by itself, as by a fault in a decoder."""
    WORKER_STUCK = "worker_stuck"
    """The process that worked on it was killed, since nothing came of it any more."""
    UNEXPECTED = "unexpected"
    """An error that nobody foresaw."""


class BatchError(Exception):
    """Something a person can mend: which file, what was got and expected, what helps."""


class VideoError(BatchError):
    """A video cannot be opened or decoded."""

    def __init__(self, message: str, reason: Reason = Reason.UNDECODABLE) -> None:
        super().__init__(message)
        self.reason = reason


class ManifestError(BatchError):
    """A manifest is broken, or does not fit what is asked of it."""


class ModelError(BatchError):
    """A model cannot be used for what is asked of it."""


class DeviceError(ModelError):
    """torch cannot use a device here."""


class ContextError(BatchError):
    """A video does not fit the model's context."""


class BudgetError(BatchError):
    """A video cannot be made as small as its budget."""
