"""Space for the next file: free disk and quota. Knows sizes, not what is written."""

import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.errors import NoSpaceError

MEASURED_EVERY_S = 60.0
"""How often a quota counts what other processes wrote; own files are counted at once."""

_MEASURING_SHARE = 0.05
"""Of its time that a run may spend on counting, which takes minutes in a large folder on NFS."""

_UNITS = {
    **{"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    **{"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40},
}


def parse_size(text: str) -> int:
    """Bytes of "500G", "1.5TB", "200GiB" or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?I?)B?", text.strip().upper())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise ValueError(f"got {text!r}, expected a size like 500G, 1.5TB or 200GiB")
    return int(float(match[1]) * unit)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one file may take; it can be sent to the process that writes it.

    `quota_left` is None without a quota.
    """

    folder: Path
    quota_left: int | None

    def after(self, size_bytes: int) -> "Allowance":
        """What is left of it when so much has been written."""
        left = self.quota_left
        return self if left is None else replace(self, quota_left=left - size_bytes)

    def check(self, size_bytes: int) -> None:
        """Raise a NoSpaceError if a file of this size does not fit the quota or the disk."""
        self.check_quota(size_bytes)
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if size_bytes > free:
            raise NoSpaceError(
                f"{self.folder}: the disk has {free:,} bytes left, the next file has "
                f"{size_bytes:,}; make room and run the same command"
            )

    def check_quota(self, size_bytes: int) -> None:
        """The same, of a file that is on the disk already."""
        if self.quota_left is not None and size_bytes > self.quota_left:
            raise NoSpaceError(
                f"{self.folder}: --max-bytes is reached: {max(0, self.quota_left):,} bytes of it "
                f"are left, the next file has {size_bytes:,}; raise it and run the same command"
            )


class DiskSpace:
    """What may still be written below a folder that exists.

    `max_bytes` is the quota for all its files; None is no quota.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._used = 0
        self._measured_s = float("-inf")
        self._every_s = MEASURED_EVERY_S

    def allowance(self) -> Allowance:
        if self._max_bytes is None:
            return Allowance(folder=self._folder, quota_left=None)
        began_s = time.monotonic()
        if began_s - self._measured_s > self._every_s:
            self._used = _size_bytes(self._folder)
            self._measured_s = time.monotonic()
            self._every_s = max(MEASURED_EVERY_S, (self._measured_s - began_s) / _MEASURING_SHARE)
        return Allowance(folder=self._folder, quota_left=self._max_bytes - self._used)

    def measure_again(self) -> None:
        """Forget what was counted: workers wrote files by themselves."""
        self._measured_s = float("-inf")

    def add(self, size_bytes: int) -> None:
        self._used += size_bytes


def _size_bytes(folder: Path) -> int:
    """Of all files that stay: those in `runs` are counted when they are finished."""
    total = 0
    for parent, folders, names in os.walk(folder):
        if parent == str(folder) and "runs" in folders:
            folders.remove("runs")
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # another process replaced it
                continue
    return total
