"""One run over an archive: registered, fed, recorded, catalogued."""

from collections.abc import Sequence
from dataclasses import replace

from batch.archive.backlog import Backlog
from batch.archive.calibrating import CalibrateStep
from batch.archive.catalogue import write_catalogue
from batch.archive.discovery import Scan, scan_archive
from batch.archive.identity import ModelFacts, ModelFactsStore, Products
from batch.archive.inventory import Inventory, fold
from batch.archive.pipeline import AnalyzeStep, Pipeline, PrefillStep, ProbeStep
from batch.archive.recording import Listener, Recorder
from batch.archive.request import Phase, Request
from batch.archive.store import Store
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
    model = products = None
    if request.phase is not Phase.IDENTIFY:
        model = (None if request.rehash else known.read()) or ask_model(request, stop)
        if model is None:
            return tally
        products = _decide(request, model, store)
        request = _in_dtype(request, products.dtype)
    with Run.begin(store.root, _claims(request, products)) as run:
        if model is not None:
            known.write(model, run.folder)
        space = DiskSpace(store.root, request.max_bytes)
        recorder = Recorder(run.folder, space, tally, listener, run.info.started)
        try:
            inventory = Inventory.read(store.files, run.info.id)
            _feed(request, products, inventory, recorder, run, workers or Workers(), stop)
        finally:
            with locked(store.root):
                is_last = run.release_claims()
                fold(store.root, store.files, run.info.id, run.folder)
                if is_last and products is not None and products.caches is not None:
                    write_catalogue(store, products.caches, run.folder)
    return tally


def _decide(request: Request, model: ModelFacts, store: Store) -> Products:
    """What this run makes, written down: of two that begin at once, the first has the say."""
    with Run.begin(store.root, {}) as run, locked(store.root):
        products = Products.of(request.settings, model, store)
        products.write_settings(run.folder)
    return products


def _in_dtype(request: Request, dtype: str | None) -> Request:
    """The request for workers, none of which then chooses by its own device."""
    settings = request.settings
    model = replace(settings.model, dtype=dtype)
    return replace(request, settings=replace(settings, model=model))


def _claims(request: Request, products: Products | None) -> dict[str, Shard]:
    """What no other run may do at the same time."""
    kinds = ["identify"] if products is None else []
    if products is not None and request.phase.analyzes:
        kinds.append(f"analyze {products.manifests.id}")
    if products is not None and products.caches is not None:
        kinds.append(f"prefill {products.caches.id}")
    return dict.fromkeys(kinds, request.shard)


def _feed(
    request: Request,
    products: Products | None,
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
        None if products is None else products.manifests,
        None if products is None else products.caches,
        retry_failed=request.retry_failed,
        tally=tally,
    )
    calibrate, prefill = _model_steps(
        request, products, backlog, recorder, workers.failures_in_a_row
    )

    def tick(under_way: Sequence[str]) -> None:
        run.heartbeat()
        tally.under_way = under_way
        recorder.listener.ticked(tally)

    with workers.video_pool(request) as videos, workers.model_pool(request) as models:
        Pipeline(
            backlog=backlog,
            probe=ProbeStep(scan, inventory, backlog, recorder),
            analyze=None if products is None else AnalyzeStep(products, backlog, recorder),
            calibrate=calibrate,
            prefill=prefill,
            videos=videos,
            models=models,
            tick=tick,
        ).run(stop)


def _model_steps(
    request: Request,
    products: Products | None,
    backlog: Backlog,
    recorder: Recorder,
    failures_in_a_row: int,
) -> tuple[CalibrateStep | None, PrefillStep | None]:
    """What a run does with the model, if it is to make caches."""
    if products is None or products.caches is None:
        return None, None
    prefill = PrefillStep(
        manifests=products.manifests,
        caches=products.caches,
        calibrations=request.out,
        backlog=backlog,
        recorder=recorder,
        failures_in_a_row=failures_in_a_row,
    )
    if request.settings.cache.quality == "lossless":
        return None, prefill
    calibrate = CalibrateStep(
        folder=request.out,
        model=products.model,
        manifests=products.manifests,
        caches=products.caches,
        backlog=backlog,
        recorder=recorder,
    )
    return calibrate, prefill


def _scan(request: Request, inventory: Inventory) -> Scan:
    """The files of this run, from the archive itself or from what was found there."""
    if request.phase in (Phase.ALL, Phase.IDENTIFY):
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
