"""What a run did so far, in numbers."""

import time
from collections import Counter
from dataclasses import dataclass, field

from batch.errors import Reason


@dataclass
class Tally:
    """Counts files and videos of one run."""

    files: int = 0
    to_probe: int = 0
    """Files to be opened, of which `probed` were."""
    probed: int = 0
    to_do: int = 0
    """Videos that this run found to be done by it; `done` and `given_up` of them are behind it."""
    done: int = 0
    given_up: int = 0
    """Failed in analysis or prefill, or changed since they were looked at."""
    skipped: int = 0
    """Done by an earlier run."""
    not_analyzed: int = 0
    """Not this run's to analyse, and not to be prefilled before."""
    written_bytes: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)
    """By this run."""
    failed_before: Counter[Reason] = field(default_factory=Counter)
    """By an earlier one, and nothing changed since."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Of work in each phase, summed over workers."""
    idle_seconds: float = 0.0
    """That model workers stood still although a manifest was ready."""
    started_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started_s

    @property
    def failures(self) -> int:
        """Videos that have no cache because something is wrong with them."""
        return sum(self.by_reason.values())

    @property
    def by_reason(self) -> dict[Reason, int]:
        """Failures of this run and of earlier ones, by reason."""
        return dict(sorted((self.failed + self.failed_before).items()))

    @property
    def expected(self) -> int:
        """Videos for this run, if all files that are still to be opened hold some."""
        return self.to_do + self.to_probe - self.probed

    @property
    def left(self) -> int:
        """Videos known to be still before this run."""
        return self.to_do - self.done - self.given_up
