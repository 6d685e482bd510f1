"""Whether caches are still what was written, and what of an index is to be made again."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from batch.archive.inventory import Inventory
from batch.archive.store import Store
from cachefmt import CacheFileError, open_segments, verify_segments
from cachefmt.calibration_files import MissingCalibrationError
from cachefmt.header import VersionError
from cachefmt.segments import FILE_SUFFIX, segments_in


@dataclass(frozen=True, kw_only=True)
class Check:
    """A cache to be read whole.

    - video: digest of what an index says that it holds; None: it is nobody's.
    - is_gone: no file of the archive holds that video any more, so it could not be made again.
    """

    path: Path
    video: str | None = None
    is_gone: bool = False


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a check: it is whole exactly if there are no problems."""

    size_bytes: int
    problems: list[CacheFileError]


def checks_of(root: Path, share: float | None = None, *, day: date | None = None) -> list[Check]:
    """A check of each cache that has a record in a folder of caches, whether it is there or not.

    Args:
        share: only so many of them, 0..1, another part each day: after 1 / share days all were.
        day: for which day; None is today.
    """
    store = Store(root)
    there = {row.video for row in Inventory.read(store.files).there() if row.kind == "video"}
    parts = 1 if share is None else max(1, round(1 / share))
    turn = (day or date.today()).toordinal() % parts
    return [
        Check(path=caches.product(video), video=video, is_gone=video not in there)
        for caches in store.all_caches()
        for video in sorted(caches.ledger.done())
        if _part(video, parts) == turn
    ]


def _part(video: str, parts: int) -> int:
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8]) % parts


def run_check(check: Check) -> Checked:
    """Read a cache and compare every checksum; of one in segments each damaged one is named."""
    try:
        with ExitStack() as opened:
            segments = [opened.enter_context(one) for one in open_segments(check.path)]
            held = segments[0].header.video.sha256
            if check.video not in (None, held):
                problem = f"holds video {held[:12]}, its record says {check.video[:12]}"
                raise CacheFileError(check.path, problem)
            verify_segments(segments)
            return Checked(size_bytes=sum(one.size_bytes for one in segments), problems=[])
    except CacheFileError as error:
        return Checked(size_bytes=0, problems=list(_damaged(check.path)) or [error])


def _damaged(path: Path) -> Iterator[CacheFileError]:
    """What is wrong with each segment by itself."""
    if not path.is_dir():
        return
    try:
        files = segments_in(path)
    except CacheFileError:
        return
    for file in files:
        try:
            with open_segments(file)[0] as segment:
                verify_segments([segment])
        except CacheFileError as error:
            yield error


def remove_damaged(check: Check, found: Checked) -> list[Path]:
    """Remove the files in which problems are, so that the next run makes them again; say which.

    Nothing is removed of a video that is gone, and nothing that no run wrote; nor is a cache to
    blame whose calibration is missing, which another version wrote, or which the system does not
    let this process read.

    Raises:
        CacheFileError: the system refuses.
    """
    if check.is_gone or check.video is None:
        return []
    removed = []
    damaged = filter(_is_damage, found.problems)
    for file in sorted({problem.path for problem in damaged}):
        is_segment = file.parent == check.path and file.suffix == FILE_SUFFIX
        if file.is_file() and (file == check.path or is_segment):
            try:
                file.unlink()
            except OSError as error:
                raise CacheFileError(file, f"cannot be removed: {error.strerror}") from error
            removed.append(file)
    return removed


def _is_damage(problem: CacheFileError) -> bool:
    cause = problem.__cause__
    if isinstance(cause, OSError):
        return cause.errno in (None, errno.EIO)  # without a number: it is cut short
    return not isinstance(problem, MissingCalibrationError) and not isinstance(cause, VersionError)
