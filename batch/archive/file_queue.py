"""Files in order of path become videos: each content once, under its first name.

Files are probed in parallel and out of order, but taken in order, so that which of several
copies gives a cache its name does not depend on what happened to be fast, or on a kill.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from batch.archive.inventory import FileRow


class FileQueue:
    """Gives files to probe, and takes what was found."""

    def __init__(self, rows: Iterable[FileRow], to_probe: frozenset[str]) -> None:
        """Begin.

        Args:
            rows: all files, in order of path.
            to_probe: paths of those that must be probed first.
        """
        self._waiting = deque(rows)
        self._unprobed = deque(row for row in self._waiting if row.path in to_probe)
        self._to_probe = set(to_probe)
        self._probed: dict[str, FileRow] = {}
        self._videos: set[str] = set()

    @property
    def unprobed(self) -> int:
        """Files that nobody probes yet."""
        return len(self._unprobed)

    def next_to_probe(self) -> FileRow:
        """The next file to be probed."""
        return self._unprobed.popleft()

    def put_probed(self, row: FileRow) -> None:
        """Take what a file was found to be."""
        self._probed[row.path] = row

    def take(self) -> Iterator[FileRow]:
        """Rows whose turn it is: failures, and the first file of each video."""
        while self._waiting:
            row = self._waiting[0]
            if row.path in self._to_probe:
                if row.path not in self._probed:
                    return
                row = self._probed.pop(row.path)
            self._waiting.popleft()
            if row.kind == "video" and row.is_there and row.video not in self._videos:
                self._videos.add(row.video)
                yield row
            elif row.kind == "failed":
                yield row
