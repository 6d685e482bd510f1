"""One run over an archive: registered, fed, recorded, catalogued."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from batch.archive.backlog import Backlog, FileQueue
from batch.archive.catalogue import write_catalogue
from batch.archive.discovery import Scan, scan_archive
from batch.archive.identity import ModelFactsStore, ProductSpecs
from batch.archive.inventory import Inventory, fold
from batch.archive.pipeline import AnalyzeStep, Pipeline, PrefillStep, ProbeStep
from batch.archive.recording import Listener, Recorder
from batch.archive.request import Phase, Request
from batch.archive.store import ProductFolder, Store
from batch.archive.tally import Tally
from batch.archive.workers import Workers, ask_model
from batch.errors import Reason
from jobs.disk_space import DiskSpace
from jobs.runs import Run, locked
from jobs.shards import Shard
from jobs.stopping import Stop


def index(
    request: Request, stop: Stop, listener: Listener, workers: Workers | None = None
) -> Tally:
    """Do what is missing; stops early and in good order when asked to.

    Raises:
        BusyError: another run works on the same.
        NoSpaceError: disk or quota are full.
        ModelError: the model cannot be used.
        BatchError: there is no archive, or a device fails again and again.
    """
    tally, store = Tally(), Store(request.out)
    weights, device = request.phase.prefills, request.devices[0]
    known = ModelFactsStore(store.models, request.settings, device=device, weights=weights)
    model = targets = None
    if request.phase is not Phase.IDENTIFY:
        model = (None if request.rehash else known.read()) or ask_model(request, stop)
        if model is None:
            return tally
        targets = _Targets.of(ProductSpecs.of(request.settings, model), store)
    with Run.begin(store.root, _claims(request, targets)) as run:
        if model is not None:
            known.write(model, run.folder)
        recorder = Recorder(run.folder, DiskSpace(store.root, request.max_bytes), tally, listener)
        try:
            if targets is not None:
                targets.write_settings(run.folder)
            inventory = Inventory.read(store.files, run.info.id)
            _feed(request, targets, inventory, recorder, run, workers or Workers(), stop)
        finally:
            with locked(store.root):
                is_last = run.release_claims()
                fold(store.root, store.files, run.info.id, run.folder)
                if is_last and targets is not None and targets.caches is not None:
                    write_catalogue(store, targets.caches, run.folder)
    return tally


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Where the products go, and what is written there; `caches` is None if only analysis is."""

    specs: ProductSpecs
    manifests: ProductFolder
    caches: ProductFolder | None

    @classmethod
    def of(cls, specs: ProductSpecs, store: Store) -> Self:
        caches = None if specs.caches is None else store.caches(specs.caches.id)
        return cls(specs=specs, manifests=store.manifests(specs.manifests.id), caches=caches)

    def write_settings(self, staging: Path) -> None:
        self.manifests.write_settings(self.specs.manifests.to_dict(), staging)
        if self.caches is not None and self.specs.caches is not None:
            self.caches.write_settings(self.specs.caches.to_dict(), staging)


def _claims(request: Request, targets: _Targets | None) -> dict[str, Shard]:
    """What no other run may do at the same time."""
    kinds = ["identify"] if targets is None else []
    if targets is not None and request.phase.analyzes:
        kinds.append(f"analyze {targets.manifests.id}")
    if targets is not None and targets.caches is not None:
        kinds.append(f"prefill {targets.caches.id}")
    return dict.fromkeys(kinds, request.shard)


def _feed(
    request: Request,
    targets: _Targets | None,
    inventory: Inventory,
    recorder: Recorder,
    run: Run,
    workers: Workers,
    stop: Stop,
) -> None:
    tally = recorder.tally
    scan = _scan(request, inventory)
    tally.files, tally.to_probe = len(scan.rows), len(scan.to_probe)
    for folder in scan.unreadable:
        recorder.count_failed(folder, Reason.UNREADABLE, f"{folder}: this folder cannot be read")
    backlog = Backlog(
        request.phase,
        None if targets is None else targets.manifests,
        None if targets is None else targets.caches,
        retry_failed=request.retry_failed,
        tally=tally,
    )
    analyze = prefill = None
    if targets is not None:
        manifests, caches = targets.manifests, targets.caches
        analyze = AnalyzeStep(targets.specs, manifests, backlog, recorder)
        if caches is not None:
            most = workers.failures_in_a_row
            prefill = PrefillStep(manifests, caches, backlog, recorder, most)

    def tick() -> None:
        run.heartbeat()
        recorder.listener.ticked(tally)

    with workers.video_pool(request) as videos, workers.model_pool(request) as models:
        Pipeline(
            backlog=backlog,
            probe=ProbeStep(FileQueue(scan.rows, scan.to_probe), inventory, backlog, recorder),
            analyze=analyze,
            prefill=prefill,
            videos=videos,
            models=models,
            tick=tick,
        ).run(stop)


def _scan(request: Request, inventory: Inventory) -> Scan:
    """The files of this run, from the archive itself or from what was found there."""
    if request.phase.identifies:
        return scan_archive(
            request.archive,
            inventory,
            skip=request.out,
            shard=request.shard,
            rehash=request.rehash,
            retry_failed=request.retry_failed,
        )
    videos = [row for row in inventory.there() if row.kind == "video"]
    rows = [row for row in videos if request.shard.owns(row.video)]
    return Scan(rows=rows, to_probe=frozenset(), unreadable=[])
