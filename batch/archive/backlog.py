"""Which videos wait for what, by what the records say."""

import time
from collections import deque

from batch.archive.inventory import FileRow
from batch.archive.phases import Phase
from batch.archive.store import ProductFolder
from batch.archive.tally import Tally
from batch.errors import Reason


class Backlog:
    """Videos to be analysed and to be prefilled, first in, first out."""

    def __init__(
        self,
        phase: Phase,
        manifests: ProductFolder | None,
        caches: ProductFolder | None,
        *,
        retry_failed: bool,
        tally: Tally,
    ) -> None:
        """Read what is done and what failed; names only, but of a folder the record.

        Args:
            manifests: None if only files are looked at.
            caches: None if nothing is prefilled.
            retry_failed: do again from the beginning what failed.
        """
        self.to_analyze: deque[FileRow] = deque()
        self.to_prefill: deque[tuple[FileRow, float]] = deque()
        """With the time of the monotonic clock since which it waits."""
        self._phase = phase
        self._retry_failed = retry_failed
        self._tally = tally
        self._last = caches if phase.prefills else manifests
        self._done = set() if self._last is None else self._last.whole()
        self._manifests = set() if manifests is None else manifests.finished()
        self._sent_back: set[str] = set()
        self._failed: dict[str, ProductFolder] = {}
        for products in (manifests, caches):
            if products is not None:
                self._failed |= dict.fromkeys(products.ledger.failed(), products)

    def admit(self, row: FileRow) -> None:
        """Put a video where it belongs, or count it as done or failed."""
        video = row.video
        if self._last is None:
            return
        failure = None if self._retry_failed else self._failure(video)
        if video in self._done:
            self._tally.skipped += 1
        elif failure is not None:
            self._tally.failed_before[failure] += 1
        elif self._phase.prefills and video in self._manifests and video not in self._failed:
            self._tally.to_do += 1
            self.pass_on(row)
        elif self._phase.analyzes:
            self._tally.to_do += 1
            self.to_analyze.append(row)
        elif video in self._manifests:
            self._tally.to_do += 1
            self.pass_on(row)
        else:
            self._tally.not_analyzed += 1

    def _failure(self, video: str) -> Reason | None:
        """Why a video failed; None: it did not, or another run did it since."""
        failed_in = self._failed.get(video)
        record = None if failed_in is None else failed_in.ledger.read_failed(video)
        return None if record is None else Reason(record["reason"])

    def pass_on(self, row: FileRow) -> bool:
        """Let a video with a manifest go on; False if this run does not prefill."""
        if self._phase.prefills:
            self.to_prefill.append((row, time.monotonic()))
        return self._phase.prefills

    def analyze_again(self, row: FileRow) -> bool:
        """Send a video back; False if this run does not analyse, or has done so already."""
        if not self._phase.analyzes or row.video in self._sent_back:
            return False
        self._sent_back.add(row.video)
        self.to_analyze.append(row)
        return True
