"""What becomes of each video: files get their names, records are written last, listeners told."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from batch.archive.inventory import FileRow
from batch.archive.store import ProductFolder
from batch.archive.tally import Tally
from batch.errors import Reason
from cachefmt.segments import segments_in
from jobs.atomic import move_into_place
from jobs.disk_space import DiskSpace
from jobs.errors import NoSpaceError


class Listener(Protocol):
    """Who wants to know what happens in a run."""

    def done(self, path: str, file: Path, record: Mapping[str, Any]) -> None:
        """The last file that was asked for of a video is there."""

    def failed(self, path: str, reason: Reason, message: str) -> None: ...

    def warned(self, message: str) -> None:
        """Something is odd, but nothing failed."""

    def ticked(self, tally: Tally) -> None:
        """Half a second went by, or something happened."""


@dataclass(frozen=True)
class Recorder:
    """The only one in a run who writes where other runs can see it.

    `staging` is a folder for unfinished files, of this run alone; `space` is that of the caches;
    `started` is when this run began, as records have it.
    """

    staging: Path
    space: DiskSpace
    tally: Tally
    listener: Listener
    started: str

    def commit(
        self, products: ProductFolder, row: FileRow, staged: Path, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Give a finished file its name and record it; returns the record.

        Raises:
            NoSpaceError: other files took its room meanwhile; it is dropped.
        """
        size_bytes = staged.stat().st_size
        try:
            self.space.allowance().check_quota(size_bytes)
        except NoSpaceError:
            staged.unlink()
            raise
        move_into_place(staged, products.file_of(row.video))
        self.space.add(size_bytes)
        return self._record(products, row, facts, size_bytes)

    def commit_folder(
        self, products: ProductFolder, row: FileRow, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record a folder whose files have their names; returns the record.

        Raises:
            NoSpaceError: other files took its room meanwhile; only the segments that fit stay, and
                the next run goes on with them.
        """
        self.space.measure_again()  # it may have counted some of these files
        dropped_bytes = 0
        for file in reversed(segments_in(products.folder_of(row.video))):
            left = self.space.allowance().quota_left
            if left is None or left >= 0:
                break
            file_bytes = file.stat().st_size
            file.unlink()
            self.space.add(-file_bytes)
            dropped_bytes += file_bytes
        self.space.allowance().check_quota(dropped_bytes)
        return self._record(products, row, facts, facts["cache_bytes"])

    def finish(self, products: ProductFolder, row: FileRow, record: Mapping[str, Any]) -> None:
        self.tally.done += 1
        self.listener.done(row.path, products.product(row.video), record)

    def fail(self, products: ProductFolder, row: FileRow, reason: Reason, message: str) -> None:
        """Record and count a video that failed.

        A file that cannot be read says nothing of its content, so that is tried by every run.
        """
        if reason is not Reason.UNREADABLE:
            record = {"reason": reason, "message": message, **self._signature(row)}
            products.ledger.put_failed(row.video, record, self.staging)
        self.give_up(row, reason, message)

    def give_up(self, row: FileRow, reason: Reason, message: str) -> None:
        """Count a video that failed without a record: the next run tries again."""
        self.tally.given_up += 1
        self.count_failed(row.path, reason, message)

    def count_failed(self, path: str, reason: Reason, message: str) -> None:
        self.tally.failed[reason] += 1
        self.listener.failed(path, reason, message)

    def _record(
        self, products: ProductFolder, row: FileRow, facts: Mapping[str, Any], size_bytes: int
    ) -> dict[str, Any]:
        record = {**facts, **row.public_facts, **self._signature(row)}
        products.ledger.put_done(row.video, record, self.staging)
        self.tally.written_bytes += size_bytes
        return record

    def _signature(self, row: FileRow) -> dict[str, Any]:
        finished = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        where = {"path": row.path, "host": socket.gethostname()}
        return {**where, "run_started": self.started, "finished": finished}
