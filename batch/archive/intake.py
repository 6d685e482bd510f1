"""Files in order of path become videos: each content once, under its first name.

Files are looked at in parallel and out of order, but taken in order, so that which of several
copies gives a cache its name does not depend on what happened to be fast, or on a kill.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from batch.archive.inventory import FileRow


class Intake:
    """Gives rows to look at, and takes what was seen."""

    def __init__(self, rows: Iterable[FileRow], to_look: frozenset[str]) -> None:
        """Begin.

        Args:
            rows: all files, in order of path.
            to_look: paths of those that must be looked at first.
        """
        self._waiting = deque(rows)
        self._unseen = deque(row for row in self._waiting if row.path in to_look)
        self._to_look = set(to_look)
        self._seen: dict[str, FileRow] = {}
        self._videos: set[str] = set()

    @property
    def unseen(self) -> int:
        """Files that nobody looks at yet."""
        return len(self._unseen)

    @property
    def is_over(self) -> bool:
        """Whether all rows were taken."""
        return not self._waiting

    def next_to_look(self) -> FileRow:
        """The next file to be looked at."""
        return self._unseen.popleft()

    def saw(self, row: FileRow) -> None:
        """Take what a file was found to be."""
        self._seen[row.path] = row

    def take(self) -> Iterator[FileRow]:
        """Rows whose turn it is: failures, and the first file of each video."""
        while self._waiting:
            row = self._waiting[0]
            if row.path in self._to_look:
                if row.path not in self._seen:
                    return
                row = self._seen.pop(row.path)
            self._waiting.popleft()
            if row.kind == "video" and row.is_there and row.video not in self._videos:
                self._videos.add(row.video)
                yield row
            elif row.kind == "failed":
                yield row
