"""The one error this package raises about a file."""

import os
from pathlib import Path


class CacheFileError(Exception):
    """A cache file is broken, foreign or unfinished; the message begins with its name."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        # Both go into args, so that the error survives pickling between processes.
        super().__init__(os.fspath(path), problem)
        self.path = Path(path)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"
