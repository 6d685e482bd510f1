"""One run over an archive: registered, fed, recorded, catalogued."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from batch.archive.backlog import Backlog
from batch.archive.catalogue import write_catalogue
from batch.archive.discovery import scan_archive
from batch.archive.file_queue import FileQueue
from batch.archive.handlers import make_describe_handler, make_model_handler, make_video_handler
from batch.archive.inventory import Inventory, fold
from batch.archive.model_facts import ModelFacts, ModelFactsStore
from batch.archive.phases import Phase
from batch.archive.pipeline import Pipeline
from batch.archive.recording import Listener, Recorder
from batch.archive.settings import IndexSettings
from batch.archive.steps import AnalyzeStep, PrefillStep, ProbeStep
from batch.archive.store import ProductFolder, Store
from batch.archive.tally import Tally
from batch.archive.tasks import Describe
from batch.archive.work import Work, work_of
from batch.errors import ModelError, Reason
from batch.making.failures import reason_of
from jobs.disk_space import DiskSpace
from jobs.runs import Run, locked
from jobs.shards import Shard
from jobs.stopping import Stop
from jobs.workers import Finished, Pool, Raised, Worker, collect

_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Of workers: as many as there are cores must not each start as many threads, nor draw bars."""

STUCK_VIDEO_S = 600.0
"""A process that for so long decodes no frame and reads nothing new of its video is stuck."""
STUCK_MODEL_S = 3600.0
"""A process that for so long prefills no block, or does not get its model loaded, is stuck: on
slow processors a block of a large model takes many minutes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is to do, and with what.

    - jobs: processes that open videos, one thread each.
    - devices: one for each process with a model; None is the best there is.
    - threads: of the processor, for each process with a model.
    - rehash: distrust size, time and inode. retry_failed: do again what failed.
    """

    archive: Path
    out: Path
    settings: IndexSettings
    phase: Phase
    shard: Shard
    jobs: int
    devices: tuple[str | None, ...]
    threads: int
    rehash: bool
    retry_failed: bool
    max_bytes: int | None


def index(request: Request, stop: Stop, listener: Listener) -> Tally:
    """Do what is missing; stops early and in good order when asked to.

    Raises:
        BusyError: another run works on the same.
        NoSpaceError: disk or quota are full.
        ModelError: the model cannot be used.
        BatchError: there is no archive, or a device fails again and again.
    """
    tally, store = Tally(), Store(request.out)
    known = ModelFactsStore(
        store.models,
        request.settings,
        device=request.devices[0],
        weights=request.phase.prefills,
    )
    model = work = None
    if request.phase is not Phase.IDENTIFY:
        model = (None if request.rehash else known.read()) or _ask_model(request, stop)
        if model is None:
            return tally
        work = work_of(request.settings, model)
    targets = Targets.of(work, store)
    with Run.begin(store.root, _claims(request, targets)) as run:
        if model is not None:
            known.write(model, run.folder)
        space = DiskSpace(store.root, request.max_bytes)
        recorder = Recorder(run.folder, space, tally, listener)
        try:
            targets.write_settings(run.folder)
            _work(request, targets, store, recorder, run, stop)
        finally:
            with locked(store.root):
                is_last = run.release_claims()
                fold(store.root, store.files, run.info.id, run.folder)
                if is_last and targets.caches is not None:
                    write_catalogue(store, targets.caches, run.folder)
    return tally


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where what was asked for goes; None: it was not asked for."""

    work: Work | None
    manifests: ProductFolder | None
    caches: ProductFolder | None

    @classmethod
    def of(cls, work: Work | None, store: Store) -> Self:
        """The folders of a work."""
        caches = None if work is None else work.caches
        return cls(
            work=work,
            manifests=None if work is None else store.analysis(work.manifests.id),
            caches=None if caches is None else store.work(caches.id),
        )

    def write_settings(self, staging: Path) -> None:
        """Say in each folder what it is of."""
        if self.work is None:
            return
        for products, spec in (
            (self.manifests, self.work.manifests),
            (self.caches, self.work.caches),
        ):
            if products is not None and spec is not None:
                products.write_settings(spec.to_dict(), staging)


def _ask_model(request: Request, stop: Stop) -> ModelFacts | None:
    """The model's facts, from a process that ends again, for torch is large; None: stopped."""
    settings, weights = request.settings, request.phase.prefills
    with Pool([Worker(make_describe_handler, _ENVIRONMENT)]) as pool:
        pool.submit(Describe(settings=settings, device=request.devices[0], weights=weights))
        while not stop.is_asked:
            for _, result in collect([pool], 0.1):
                if isinstance(result, Finished):
                    facts: ModelFacts = result.value
                    return facts
                if isinstance(result, Raised):
                    raise result.error
                raise ModelError(f"{settings.model.name}: cannot be opened: {reason_of(result)[1]}")
    return None


def _claims(request: Request, targets: Targets) -> dict[str, Shard]:
    """What no other run may do at the same time."""
    kinds = ["identify"] if request.phase is Phase.IDENTIFY else []
    if targets.manifests is not None and request.phase.analyzes:
        kinds.append(f"analyze {targets.manifests.id}")
    if targets.caches is not None and request.phase.prefills:
        kinds.append(f"prefill {targets.caches.id}")
    return dict.fromkeys(kinds, request.shard)


def _work(
    request: Request,
    targets: Targets,
    store: Store,
    recorder: Recorder,
    run: Run,
    stop: Stop,
) -> None:
    phase, tally = request.phase, recorder.tally
    inventory = Inventory.read(store.files, run.info.id)
    queue = _file_queue(request, inventory, recorder)
    backlog = Backlog(
        phase, targets.manifests, targets.caches, retry_failed=request.retry_failed, tally=tally
    )
    analyze = prefill = None
    if phase.analyzes and targets.work is not None and targets.manifests is not None:
        analyze = AnalyzeStep(targets.work, targets.manifests, backlog, recorder)
    if phase.prefills and targets.manifests is not None and targets.caches is not None:
        prefill = PrefillStep(targets.manifests, targets.caches, backlog, recorder)

    def tick() -> None:
        run.heartbeat()
        recorder.listener.ticked(tally)

    with _video_pool(request) as videos, _model_pool(request) as models:
        Pipeline(
            backlog=backlog,
            probe=ProbeStep(queue, inventory, backlog, recorder),
            analyze=analyze,
            prefill=prefill,
            videos=videos,
            models=models,
            tick=tick,
        ).run(stop)


def _file_queue(request: Request, inventory: Inventory, recorder: Recorder) -> FileQueue:
    """The files of this run, from the archive itself or from what was found there."""
    if not request.phase.identifies:
        rows = [
            row
            for row in inventory.there()
            if row.kind == "video" and request.shard.owns(row.video)
        ]
        recorder.tally.files = len(rows)
        return FileQueue(rows, frozenset())
    found = scan_archive(
        request.archive,
        inventory,
        skip=request.out,
        shard=request.shard,
        rehash=request.rehash,
        retry_failed=request.retry_failed,
    )
    recorder.tally.files = len(found.rows)
    recorder.tally.to_probe = len(found.to_probe)
    for folder in found.unreadable:
        recorder.count_failed(folder, Reason.UNREADABLE, f"{folder}: this folder cannot be read")
    return FileQueue(found.rows, found.to_probe)


def _video_pool(request: Request) -> Pool:
    count = request.jobs if request.phase is not Phase.PREFILL else 0
    return Pool([Worker(make_video_handler, _ENVIRONMENT, STUCK_VIDEO_S) for _ in range(count)])


def _model_pool(request: Request) -> Pool:
    devices = request.devices if request.phase.prefills else ()
    handlers = (
        partial(make_model_handler, request.settings, device, request.threads) for device in devices
    )
    return Pool([Worker(handler, _ENVIRONMENT, STUCK_MODEL_S) for handler in handlers])
