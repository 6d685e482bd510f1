"""Files that appear under their name whole or not at all. Knows no content."""

import os
from pathlib import Path


def move_into_place(source: Path, target: Path) -> None:
    """Give a finished, synced file its final name on the same file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name survives a power cut
    finally:
        os.close(folder)


def write_atomic(target: Path, content: bytes, staging: Path) -> None:
    """Write a file by way of a folder for unfinished ones."""
    unfinished = staging / target.name
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    move_into_place(unfinished, target)
