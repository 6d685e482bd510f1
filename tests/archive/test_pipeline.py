"""What follows from the results of workers, in orders that a run cannot be made to produce."""

import time
from pathlib import Path

import pytest

from batch.archive.backlog import Backlog
from batch.archive.inventory import FileRow, Stat, facts_of
from batch.archive.pipeline import PrefillStep
from batch.archive.recording import Recorder
from batch.archive.request import Phase
from batch.archive.store import Store
from batch.archive.tally import Tally
from batch.archive.tasks import Load, Prefill, Staged
from batch.errors import BatchError, ContextError, ModelError, Reason
from batch.video import probe
from cachefmt.segments import segment_path, segments_in
from jobs.disk_space import DiskSpace
from jobs.errors import NoSpaceError
from jobs.workers import Died, Finished, Raised, Worker
from tests.archive.archives import draw_video
from tests.archive.indexing import Heard


class Prefilling:
    """The last step of a run, whose workers' results are made up."""

    def __init__(self, root: Path, row: FileRow) -> None:
        store = Store(root)
        manifests, caches = store.manifests("a"), store.caches("w")
        (root / "staging").mkdir(parents=True)
        self.row, self.tally = row, Tally()
        self.recorder = Recorder(root / "staging", DiskSpace(root, None), self.tally, Heard(), "")
        manifests.ledger.put_done(row.video, {}, root / "staging")
        self.backlog = Backlog(
            Phase.PREFILL, manifests, caches, retry_failed=False, tally=self.tally
        )
        self.step = PrefillStep(
            manifests=manifests,
            caches=caches,
            backlog=self.backlog,
            recorder=self.recorder,
            failures_in_a_row=3,
        )

    def next(self) -> Prefill:
        self.backlog.pass_on(self.row)
        task = self.step.next()
        assert task is not None
        return task

    def finish(self, worker: Worker, began_s: float, ended_s: float) -> None:
        task = self.next()
        task.staged.write_bytes(b"cache")
        facts = {"cache_bytes": 5, "fp16_kv_bytes": 20}
        value = Staged(facts=facts, began_s=began_s, ended_s=ended_s)
        self.step.ended(worker, Finished(task=task, value=value))


@pytest.fixture
def row(tmp_path: Path) -> FileRow:
    video = draw_video(tmp_path / "x.mp4", seed=1, seconds=2)
    facts = facts_of(probe(video))
    return FileRow(path=str(video), stat=Stat.of(video.stat()), kind="video", facts=facts)


@pytest.fixture
def prefilling(tmp_path: Path, row: FileRow) -> Prefilling:
    return Prefilling(tmp_path / "out", row)


def idle_worker() -> Worker:
    return Worker(dict, {})


def test_a_broken_device_stops_the_run_though_others_go_on(prefilling: Prefilling) -> None:
    broken, sound = idle_worker(), idle_worker()
    for _ in range(2):
        prefilling.step.ended(broken, Died(task=prefilling.next(), signal=None))
        prefilling.finish(sound, 0.0, 1.0)
    with pytest.raises(BatchError, match="3 videos in a row failed in prefill"):
        prefilling.step.ended(broken, Died(task=prefilling.next(), signal=None))


def test_failures_on_different_devices_are_not_in_a_row(prefilling: Prefilling) -> None:
    for worker in [idle_worker() for _ in range(4)]:
        prefilling.step.ended(worker, Died(task=prefilling.next(), signal=None))
    assert prefilling.tally.failed == {Reason.WORKER_CRASHED: 4}


def test_the_time_that_a_failure_took_is_not_idle_time(prefilling: Prefilling) -> None:
    worker, now = idle_worker(), time.monotonic()
    prefilling.finish(worker, now, now + 1)
    prefilling.finish(worker, now + 3, now + 4)
    assert prefilling.tally.idle_seconds == pytest.approx(2)
    too_long = Raised(task=prefilling.next(), error=ContextError("too long"))
    prefilling.step.ended(worker, too_long)
    prefilling.finish(worker, now + 100, now + 101)
    assert prefilling.tally.idle_seconds == pytest.approx(2)


def test_a_model_whose_process_dies_while_it_is_loaded_stops_the_run(
    prefilling: Prefilling,
) -> None:
    with pytest.raises(ModelError, match="cannot be loaded: its process left by itself"):
        prefilling.step.ended(idle_worker(), Died(task=Load(), signal=None))


def test_of_segments_those_stay_that_fit_a_quota_which_others_used_up_meanwhile(
    tmp_path: Path, row: FileRow
) -> None:
    products, staging = Store(tmp_path / "out").caches("w"), tmp_path / "staging"
    staging.mkdir()
    folder = products.folder_of(row.video)
    folder.mkdir(parents=True)
    for number in range(3):
        segment_path(folder, number).write_bytes(bytes(100))
    (tmp_path / "out" / "of another run").write_bytes(bytes(150))
    recorder = Recorder(staging, DiskSpace(tmp_path / "out", 400), Tally(), Heard(), "")
    with pytest.raises(NoSpaceError, match="50 bytes of it are left, the next file has 100"):
        recorder.commit_folder(products, row, {"cache_bytes": 300})
    assert segments_in(folder) == [segment_path(folder, number) for number in range(2)]
    assert row.video not in products.ledger.done()
