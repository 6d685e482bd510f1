"""What is in the archive now: a walk held against what is known, and a look into a file.

The walk opens no file. Which files are videos is decided by what is in them, in `probe_file`.
"""

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR

from batch.archive.inventory import FileRow, Inventory, Stat, facts_of
from batch.errors import BatchError, Reason, VideoError
from batch.video import is_named_as_video, probe
from jobs.shards import Shard
from jobs.workers import Progress

_NO_VIDEO = (Reason.NOT_VIDEO, Reason.NO_PICTURE, Reason.EMPTY)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is there now.

    - rows: in order of path.
    - to_probe: paths of files that must be opened to know what they are.
    - unreadable: folders whose files are unknown; what was known of them stands.
    """

    rows: list[FileRow]
    to_probe: frozenset[str]
    unreadable: list[str]


def scan_archive(
    archive: Path,
    inventory: Inventory,
    *,
    skip: Path,
    shard: Shard,
    rehash: bool = False,
    retry_failed: bool = False,
) -> Scan:
    """Walk the archive and note what is new, changed, moved or gone.

    A file whose size, time and inode are known at its path, or at a path that has vanished, here
    or in a folder that was renamed to this one, is taken for the same. Hidden files and folders
    are passed over, links to folders too.

    Args:
        skip: folder that is not part of the archive even if it lies in it.
        shard: which files are this task's, by the digest of their path.
        rehash: look into all files again; retry_failed: into those that could not be used.

    Raises:
        BatchError: there is not one file.
    """
    unreadable: list[str] = []
    everything = dict(_walk(str(archive), str(skip), unreadable))
    if not everything and not unreadable:
        raise BatchError(f"{archive}: not one file; is it mounted?")
    found = {path: stat for path, stat in everything.items() if shard.owns_name(path)}
    gone = _gone(archive, inventory, shard, found, unreadable)
    elsewhere = _brought_here(archive, inventory, everything)
    moved = {row.stat: row for row in (*elsewhere, *gone) if row.kind != "new"}
    gone += [row for row in elsewhere if shard.owns_name(row.path)]
    changed = [replace(row, is_there=False) for row in gone if row.is_there]
    rows, to_probe = [], set()
    for path, stat in sorted(found.items()):
        known = inventory.rows.get(path)
        if known is None or known.stat != stat:
            row = replace(moved.get(stat, FileRow(path=path, stat=stat)), path=path, is_there=True)
        else:
            row = known if known.is_there else replace(known, is_there=True)
        rows.append(row)
        if row != known:
            changed.append(row)
        # A file that could not be read need not change to be readable.
        is_readable = row.reason is Reason.UNREADABLE and os.access(path, os.R_OK)
        is_again = row.kind == "failed" and (retry_failed or is_readable)
        if row.kind == "new" or rehash or is_again:
            to_probe.add(path)
    inventory.note(*changed)
    return Scan(rows=rows, to_probe=frozenset(to_probe), unreadable=unreadable)


def _gone(
    archive: Path, inventory: Inventory, shard: Shard, found: Container[str], unreadable: list[str]
) -> list[FileRow]:
    """Known files of this archive and shard that are not there, now or for long."""
    hidden = tuple(os.path.join(folder, "") for folder in unreadable)
    inside = os.path.join(archive, "")
    return [
        row
        for path, row in inventory.rows.items()
        if path not in found
        and path.startswith(inside)
        and not path.startswith(hidden)
        and shard.owns_name(path)
    ]


def _brought_here(
    archive: Path, inventory: Inventory, everything: Mapping[str, Stat]
) -> list[FileRow]:
    """Known files of another archive that lie in this one now: it was renamed, or mounted here.

    They are no longer where they were, and one of the same name, size and time is here. (On a
    mount of its own a file may have another inode.) Of an archive that is only not mounted now,
    what is known stands.
    """
    inside = os.path.join(archive, "")
    others = [row for row in inventory.there() if not row.path.startswith(inside)]
    if not others:
        return []
    here = {_signature(path, stat) for path, stat in everything.items()}
    return [
        row
        for row in others
        if _signature(row.path, row.stat) in here and not os.path.lexists(row.path)
    ]


def _signature(path: str, stat: Stat) -> tuple[str, int, int]:
    return os.path.basename(path), stat.size_bytes, stat.mtime_ns


def _walk(archive: str, skip: str, unreadable: list[str]) -> Iterator[tuple[str, Stat]]:
    folders = [archive]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:  # it vanished this moment
            continue
        except OSError:
            unreadable.append(folder)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # it vanished this moment
                    stat = _stat_of_entry(entry)
                    if not S_ISDIR(stat.st_mode):  # a link to a folder
                        yield entry.path, Stat.of(stat)
            elif entry.path != skip:
                folders.append(entry.path)


def _stat_of_entry(entry: "os.DirEntry[str]") -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link that is broken, a loop, or out of reach: it is reported as a file
        return entry.stat(follow_symlinks=False)


def probe_file(row: FileRow, progress: Progress) -> FileRow:
    """Open a file, decode its first frame and digest it."""
    path = Path(row.path)
    blank = replace(row, kind="new", facts=None, reason=None, message=None)
    try:
        info = probe(path, progress=progress)
        if not is_unchanged(row):
            raise VideoError(f"{path}: it changes while it is read", Reason.CHANGING)
    except VideoError as error:
        return failed_row(blank, error.reason, str(error))
    except OSError as error:
        return failed_row(blank, Reason.UNREADABLE, f"{path}: {error.strerror}")
    return replace(blank, kind="video", facts=facts_of(info))


def failed_row(row: FileRow, reason: Reason, message: str) -> FileRow:
    """The row of a file that cannot be used; of what is no video, a failure only by its name."""
    if not os.path.lexists(row.path):
        return replace(row, is_there=False)
    is_no_video = reason in _NO_VIDEO or not os.path.isfile(row.path)
    if is_no_video and not is_named_as_video(Path(row.path)):
        return replace(row, kind="other")
    return replace(row, kind="failed", reason=reason, message=message)


def is_unchanged(row: FileRow) -> bool:
    """Whether a file is still the one that was looked at."""
    try:
        return Stat.of(os.stat(row.path)) == row.stat
    except OSError:
        return False
