"""Fields of Linux's /proc; what is not there is None."""

from pathlib import Path


def field(path: Path, name: str) -> str | None:
    """The value of the first `name: value` of a file."""
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def field_bytes(path: Path, name: str) -> int | None:
    """A field that counts kilobytes, as "1024 kB"."""
    found = field(path, name)
    return None if found is None else int(found.split()[0]) * 1024
