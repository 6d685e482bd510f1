"""What a file of the archive is: a video, one that cannot be used, or something other."""

import os
from dataclasses import asdict, replace
from pathlib import Path

from batch.archive.discovery import is_named_video
from batch.archive.inventory import FileRow, Stat, facts_of
from batch.errors import Reason, VideoError
from batch.video import probe
from jobs.workers import Progress


def probe_file(row: FileRow, progress: Progress) -> FileRow:
    """Open a file, decode its first frame and digest it.

    What cannot be used is a failure only if its name is a video's.

    Args:
        progress: as of `probe`.
    """
    path = Path(row.path)
    blank = replace(row, kind="new", facts=None, reason=None, message=None)
    try:
        info = probe(path, progress=progress)
        if _stat(path) != row.stat:
            raise VideoError(f"{path}: it changes while it is read", Reason.CHANGING)
    except VideoError as error:
        return failed_row(blank, error.reason, str(error))
    except OSError as error:
        return failed_row(blank, Reason.UNREADABLE, f"{path}: {error.strerror}")
    facts = asdict(info)
    del facts["path"]
    return replace(blank, kind="video", facts=facts_of(facts))


def failed_row(row: FileRow, reason: Reason, message: str) -> FileRow:
    """The row of a file that cannot be used."""
    if not os.path.lexists(row.path):
        return replace(row, is_there=False)
    if not is_named_video(row.path) and reason in (
        Reason.NOT_VIDEO,
        Reason.NO_PICTURE,
        Reason.EMPTY,
    ):
        return replace(row, kind="other")
    return replace(row, kind="failed", reason=reason, message=message)


def is_unchanged(row: FileRow) -> bool:
    """Whether a file is still the one that was looked at."""
    return _stat(Path(row.path)) == row.stat


def _stat(path: Path) -> Stat | None:
    try:
        return Stat.of(path.stat())
    except OSError:
        return None
