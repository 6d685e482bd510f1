"""Errors of running work, which a person can act on."""


class JobError(Exception):
    """Something a person can mend: where, what was got and expected, what helps."""


class BusyError(JobError):
    """Another run is at work on the same items; later is soon enough."""


class NoSpaceError(JobError):
    """The disk or the quota has no room for the next file."""


class RecordError(JobError):
    """A record is no record: changed by hand or damaged."""
