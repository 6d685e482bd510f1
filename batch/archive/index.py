"""One run over an archive: registered, fed, recorded, catalogued."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from batch.archive.backlog import Backlog
from batch.archive.catalogue import write_catalogue
from batch.archive.desks import open_describing_desk, open_model_desk, open_video_desk
from batch.archive.discovery import take_stock
from batch.archive.failing import reason_of
from batch.archive.intake import Intake
from batch.archive.inventory import Inventory, fold
from batch.archive.model_facts import ModelFacts, ModelMemory
from batch.archive.order import Order
from batch.archive.phases import Phase
from batch.archive.pipeline import Pipeline
from batch.archive.recording import Listener, Recorder
from batch.archive.stations import Analyses, Looks, Prefills
from batch.archive.store import Shelf, Store
from batch.archive.tally import Tally
from batch.archive.tasks import Describe
from batch.archive.work import Work, work_of
from batch.errors import ModelError, Reason
from jobs.room import Room
from jobs.runs import Run, locked
from jobs.shards import Shard
from jobs.stopping import Stop
from jobs.workers import Crew, Finished, Raised, Worker, collect

_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Of workers: as many as there are cores must not each start as many threads, nor draw bars."""


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
    order: Order
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
        NoRoomError: disk or quota are full.
        ModelError: the model cannot be used.
        BatchError: there is no archive, or a device fails again and again.
    """
    tally, store = Tally(), Store(request.out)
    memory = ModelMemory(
        store.models,
        request.order,
        device=request.devices[0],
        weights=request.phase.prefills,
    )
    model = work = None
    if request.phase is not Phase.IDENTIFY:
        model = (None if request.rehash else memory.recall()) or _ask_model(request, stop)
        if model is None:
            return tally
        work = work_of(request.order, model)
    goals = Goals.of(work, store)
    with Run.begin(store.root, _claims(request, goals)) as run:
        if model is not None:
            memory.remember(model, run.folder)
        room = Room(store.root, request.max_bytes)
        recorder = Recorder(run.folder, room, tally, listener)
        try:
            goals.write_down(run.folder)
            _work(request, goals, store, recorder, run, stop)
        finally:
            with locked(store.root):
                is_last = run.resign()
                fold(store.root, store.files, run.info.id, run.folder)
                if is_last and goals.caches is not None:
                    write_catalogue(store, goals.caches, run.folder)
    return tally


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Where what was asked for goes; None: it was not asked for."""

    work: Work | None
    manifests: Shelf | None
    caches: Shelf | None

    @classmethod
    def of(cls, work: Work | None, store: Store) -> Self:
        """The shelves of a work."""
        caches = None if work is None else work.caches
        return cls(
            work=work,
            manifests=None if work is None else store.analysis(work.manifests.id),
            caches=None if caches is None else store.work(caches.id),
        )

    def write_down(self, staging: Path) -> None:
        """Say on each shelf what it is of."""
        if self.work is None:
            return
        for shelf, asked in (
            (self.manifests, self.work.manifests),
            (self.caches, self.work.caches),
        ):
            if shelf is not None and asked is not None:
                shelf.ask(asked.to_dict(), staging)


def _ask_model(request: Request, stop: Stop) -> ModelFacts | None:
    """The model's facts, from a process that ends again, for torch is large; None: stopped."""
    order, weights = request.order, request.phase.prefills
    with Crew([Worker(open_describing_desk, _ENVIRONMENT)]) as crew:
        crew.give(Describe(order=order, device=request.devices[0], weights=weights))
        while not stop.is_asked:
            for _, result in collect([crew], 0.1):
                if isinstance(result, Finished):
                    facts: ModelFacts = result.value
                    return facts
                if isinstance(result, Raised):
                    raise result.error
                raise ModelError(f"{order.model}: cannot be opened: {reason_of(result)[1]}")
    return None


def _claims(request: Request, goals: Goals) -> dict[str, Shard]:
    """What no other run may do at the same time."""
    kinds = ["identify"] if request.phase is Phase.IDENTIFY else []
    if goals.manifests is not None and request.phase.analyzes:
        kinds.append(f"analyze {goals.manifests.id}")
    if goals.caches is not None and request.phase.prefills:
        kinds.append(f"prefill {goals.caches.id}")
    return dict.fromkeys(kinds, request.shard)


def _work(
    request: Request,
    goals: Goals,
    store: Store,
    recorder: Recorder,
    run: Run,
    stop: Stop,
) -> None:
    phase, tally = request.phase, recorder.tally
    inventory = Inventory.read(store.files, run.info.id)
    intake = _intake(request, inventory, recorder)
    backlog = Backlog(
        phase, goals.manifests, goals.caches, retry_failed=request.retry_failed, tally=tally
    )
    analyses = prefills = None
    if phase.analyzes and goals.work is not None and goals.manifests is not None:
        analyses = Analyses(goals.work.analysis, goals.manifests, backlog, recorder)
    if phase.prefills and goals.manifests is not None and goals.caches is not None:
        prefills = Prefills(goals.manifests, goals.caches, backlog, recorder)

    def tick() -> None:
        run.beat()
        recorder.listener.ticked(tally)

    with _video_crew(request) as videos, _model_crew(request) as models:
        Pipeline(
            backlog=backlog,
            looks=Looks(intake, inventory, backlog, recorder),
            analyses=analyses,
            prefills=prefills,
            videos=videos,
            models=models,
            tick=tick,
        ).run(stop)


def _intake(request: Request, inventory: Inventory, recorder: Recorder) -> Intake:
    """The files of this run, from the archive itself or from what was found there."""
    if not request.phase.identifies:
        rows = [
            row
            for row in inventory.there()
            if row.kind == "video" and request.shard.owns(row.video)
        ]
        recorder.tally.files = len(rows)
        return Intake(rows, frozenset())
    stock = take_stock(
        request.archive,
        inventory,
        skip=request.out,
        shard=request.shard,
        rehash=request.rehash,
        retry_failed=request.retry_failed,
    )
    recorder.tally.files = len(stock.rows)
    recorder.tally.to_look = len(stock.to_look)
    for folder in stock.unreadable:
        recorder.count_failed(folder, Reason.UNREADABLE, f"{folder}: this folder cannot be read")
    return Intake(stock.rows, stock.to_look)


def _video_crew(request: Request) -> Crew:
    count = request.jobs if request.phase is not Phase.PREFILL else 0
    return Crew([Worker(open_video_desk, _ENVIRONMENT) for _ in range(count)])


def _model_crew(request: Request) -> Crew:
    devices = request.devices if request.phase.prefills else ()
    return Crew(
        [
            Worker(partial(open_model_desk, request.order, device, request.threads), _ENVIRONMENT)
            for device in devices
        ]
    )
