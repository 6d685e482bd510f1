"""Bytes that this process takes from files, counted by the kernel. Reads Linux's /proc.

Three counters, for none sees all: what calls ask for, pages of mapped files that were touched (no
call asks for them), and what came from the disk.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_IO, _MAPS = Path("/proc/self/io"), Path("/proc/self/smaps")


@dataclass(frozen=True, kw_only=True)
class BytesRead:
    """What a piece of work took from some files."""

    asked: int
    """By read calls, from any file: `rchar`, without what reading the counter takes."""
    mapped: int
    """Pages of the files that were mapped and touched, and those that the kernel maps with them."""
    disk: int
    """That came from the disk, in whole pages and with what the kernel reads ahead: `read_bytes`.
    0 on file systems in memory."""


def bytes_read(work: Callable[[], object], files: Sequence[Path]) -> BytesRead:
    """Count what a call takes from files, of which nothing is in memory before.

    The files must not be mapped before. What the call maps it must leave mapped, in its result.
    """
    for file in files:
        _forget(file)
    before = _counters()
    idle = _counters()
    kept = work()
    after = _counters()
    mapped = _mapped_bytes(files)
    del kept
    return BytesRead(
        asked=(after["rchar"] - idle["rchar"]) - (idle["rchar"] - before["rchar"]),
        mapped=mapped,
        disk=after["read_bytes"] - idle["read_bytes"],
    )


def _forget(file: Path) -> None:
    """Let the kernel drop what it holds of a file, so that it is read from the disk again."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _counters() -> dict[str, int]:
    lines = _IO.read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def _mapped_bytes(files: Sequence[Path]) -> int:
    """Resident bytes of these files' mappings in this process."""
    names = {str(file.resolve()) for file in files}
    total, is_ours = 0, False
    for line in _MAPS.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = line.split(maxsplit=5)[5:] != [] and line.split(maxsplit=5)[5] in names
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
