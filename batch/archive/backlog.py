"""What waits for a run: videos for analysis, videos for the model."""

import time
from collections import deque

from batch.archive.inventory import FileRow
from batch.archive.request import Phase
from batch.archive.store import ProductFolder
from batch.archive.tally import Tally
from batch.errors import Reason

FIRST = 16
"""Videos from which a calibration is made; as many wait for the model at most."""


class Backlog:
    """Videos to be analysed and to be prefilled, first in, first out, by what the records say.

    Without `manifests` only files are looked at, without `caches` nothing is prefilled.
    """

    def __init__(
        self,
        phase: Phase,
        manifests: ProductFolder | None,
        caches: ProductFolder | None,
        *,
        retry_failed: bool,
        tally: Tally,
    ) -> None:
        self.first: list[str] = []
        """Videos to be prefilled that were admitted first, `FIRST` of them."""
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
        self._failed = {
            video: products.ledger
            for products in (manifests, caches)
            if products is not None
            for video in products.ledger.failed()
        }

    def admit(self, row: FileRow) -> None:
        """Put a video where it belongs, or count it as done or failed."""
        if self._last is None:
            return
        video, analyzes, failure = row.video, self._phase.analyzes, None
        if video in self._failed and not self._retry_failed:
            failure = self._failed[video].read_failed(video)  # None: another run did it since
        if video in self._done:
            self._tally.skipped += 1
        elif failure is not None:
            self._tally.failed_before[Reason(failure["reason"])] += 1
        elif video not in self._manifests and not analyzes:
            self._tally.not_analyzed += 1
        else:
            self._tally.to_do += 1
            if len(self.first) < FIRST:
                self.first.append(video)
            is_analyzed = video in self._manifests and video not in self._failed
            if not analyzes or (self._phase.prefills and is_analyzed):
                self.pass_on(row)
            else:
                self.to_analyze.append(row)

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
