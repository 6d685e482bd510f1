"""The calibration of an archive: made once, before anything is prefilled, from its first videos."""

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from batch.archive.backlog import FIRST, Backlog
from batch.archive.identity import ModelFacts
from batch.archive.recording import Recorder
from batch.archive.store import ProductFolder
from batch.archive.tasks import Calibrate
from batch.making.failures import reason_of
from cachefmt.calibration_files import SUFFIX, find_calibration, holds_calibration
from jobs.workers import Finished, Result


class _State(Enum):
    WAITING = auto()
    UNDER_WAY = auto()
    SETTLED = auto()


@dataclass
class CalibrateStep:
    """Lets the calibration be made as soon as the first videos are analysed; nothing is prefilled
    before. Which videos these are does not depend on what happened to be fast.

    `folder` is that of all caches.
    """

    folder: Path
    model: ModelFacts
    manifests: ProductFolder
    caches: ProductFolder
    backlog: Backlog
    recorder: Recorder

    def __post_init__(self) -> None:
        found = find_calibration(self.folder, *self.model.identity)
        self._state = _State.WAITING if found is None else _State.SETTLED
        for noted in self.caches.noted_calibrations():
            if not holds_calibration(self.folder, noted):
                self.recorder.listener.warned(
                    f"{self.folder}: caches of work {self.caches.id} need the calibration with "
                    f"SHA-256 {noted[:8]}..., which is not here as it was: they cannot be read. "
                    "Put it back, under a name that no other has, or remove them, and they are "
                    "made again"
                )

    @property
    def is_settled(self) -> bool:
        """Whether there is a calibration now, or will be none in this run."""
        return self._state is _State.SETTLED

    def next(self, analysing: set[str], *, comes_more: bool) -> Calibrate | None:
        """The task, once: when none of the first videos is being analysed or waits for it.

        Args:
            analysing: videos of which this is so.
            comes_more: further files may turn out to be videos.
        """
        first = self.backlog.first
        is_complete = len(first) == FIRST or not comes_more
        if self._state is not _State.WAITING or not is_complete or analysing & set(first):
            return None
        analyzed = {row.video for row, _ in self.backlog.to_prefill}
        chosen = [video for video in first if video in analyzed]
        self._state = _State.UNDER_WAY if chosen else _State.SETTLED
        if not chosen:
            return None
        return Calibrate(
            folder=self.folder,
            manifests=tuple(map(self.manifests.product, chosen)),
            staged=self.recorder.staging / f"made{SUFFIX}",
            allowance=self.recorder.space.allowance(),
        )

    def ended(self, result: Result) -> None:
        """Without a calibration the run goes on; the next one tries again."""
        self._state = _State.SETTLED
        self.recorder.space.measure_again()
        if not isinstance(result, Finished):
            self.recorder.listener.warned(
                f"{self.folder}: no calibration could be made ({reason_of(result)[1]}); "
                "the caches of this run go without"
            )
