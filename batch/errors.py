"""Errors a person can act on. Each message names the file, what is wrong, and the way out."""


class BatchError(Exception):
    """Something a person can mend: which file, what was got and expected, what helps."""


class VideoError(BatchError):
    """A video cannot be opened or decoded."""


class ManifestError(BatchError):
    """A manifest is broken, or does not fit what is asked of it."""


class ModelError(BatchError):
    """A model cannot be used for what is asked of it."""
