"""What indexing an archive will take, from a look at each file and the whole work on a few.

Writes nothing into the folder of caches. Lengths are those that files declare.
"""

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from batch.analysis.manifest import Manifest
from batch.archive.discovery import Scan, failed_row, scan_archive
from batch.archive.identity import ModelFactsStore, Products
from batch.archive.inventory import FileRow, Inventory
from batch.archive.request import Request
from batch.archive.store import Store
from batch.errors import Reason, VideoError
from batch.making.destination import Destination
from batch.making.failures import reason_of
from batch.making.maker import CacheMaker
from batch.making.manifests import ONE_THREAD, STUCK_S, make_manifests
from batch.settings import checkpoint_folder
from batch.video import glance
from jobs.disk_space import Allowance
from jobs.workers import Finished, Pool, Progress, Worker, collect

Reports = AbstractContextManager[Callable[[int], object]]

SAMPLED = 5
"""Videos on which the whole analysis is tried, from the shortest to the longest."""
SAMPLE_S = 120.0
"""After so long no further one is begun."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """About how much, and the least and the most that any one of the sample would make of it."""

    about: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would find and do.

    - new, done, others: files to be done, of which copies count once when they are read; videos
      that are done, as far as known; files that are no videos.
    - failing: path, reason and message of each file that cannot be used.
    - video_s: of all that are new; sampled_s: of the `sampled` that were analysed.
    - analyze_s, prefill_s: of the whole run, with its processes side by side; prefill_s is None
      where the weights are not on this machine.
    """

    files: int
    new: int
    done: int
    others: int
    failing: list[tuple[str, Reason, str]]
    video_s: float
    sampled: int
    sampled_s: float
    cache_bytes: Amount | None
    manifest_bytes: Amount | None
    analyze_s: Amount | None
    prefill_s: Amount | None


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """What one video was measured to take."""

    seconds: float
    manifest_bytes: int
    cache_bytes: int
    kept: int
    analyze_s: float


@dataclass(frozen=True, kw_only=True)
class _Look:
    """See whether a file is a video, and how long it says that it is."""

    row: FileRow


def estimate(request: Request, begin: Callable[[str, int, str], Reports]) -> Estimate:
    """Estimate a run of all phases.

    Args:
        begin: of what so many of which unit will be done; gives what is told how many more are.

    Raises:
        BatchError: there is no archive.
        ModelError: the model cannot be used.
    """
    store = Store(request.out)
    with tempfile.TemporaryDirectory() as temporary:
        inventory = Inventory(Inventory.read(store.files).rows, Path(temporary) / "journal")
        scan = scan_archive(request.archive, inventory, skip=request.out, shard=request.shard)
        with begin("look", len(scan.to_probe), "files") as report:
            declared, failing, others = _look_at_all(scan, request, report)
        done = _done(request, store)
        videos = [row for row in scan.rows if row.kind == "video" and row.path not in declared]
        for row in videos:
            if row.video not in done:
                declared[row.path] = row.info.span_s
        known = [seconds for seconds in declared.values() if seconds]
        usual_s = median(known) if known else 0.0
        lengths = {path: seconds or usual_s for path, seconds in declared.items()}
        maker = CacheMaker(
            replace(request.settings.model, device=request.devices[0]), request.settings.cache
        )
        with begin("try", min(SAMPLED, len(lengths)), "videos") as report:
            manifests = list(_analyze_some(request, maker, lengths, Path(temporary), report))
        sampled = [_measure(maker, manifest, lengths) for manifest in manifests]
        each_s, share = _prefill_smallest(request, maker, manifests, Path(temporary))
    total_s, models = sum(lengths.values()), len(request.devices)

    def amount(value: Callable[[_Sampled], float], share: float = 1.0) -> Amount | None:
        return _amount([(one.seconds, value(one) * share) for one in sampled], total_s)

    return Estimate(
        files=len(scan.rows),
        new=len(lengths),
        done=sum(row.video in done for row in videos),
        others=others,
        failing=failing,
        video_s=total_s,
        sampled=len(sampled),
        sampled_s=sum(one.seconds for one in sampled),
        cache_bytes=amount(lambda one: one.cache_bytes, share),
        manifest_bytes=amount(lambda one: one.manifest_bytes),
        analyze_s=amount(lambda one: one.analyze_s, 1 / request.jobs),
        prefill_s=None if each_s is None else amount(lambda one: one.kept * each_s, 1 / models),
    )


def _amount(measured: Sequence[tuple[float, float]], total_s: float) -> Amount | None:
    """Of so many seconds of video, from seconds and amounts of the sample."""
    measured = [(seconds, value) for seconds, value in measured if seconds > 0]
    if not measured:
        return None
    rates = [value / seconds for seconds, value in measured]
    mean = sum(value for _, value in measured) / sum(seconds for seconds, _ in measured)
    return Amount(about=mean * total_s, least=min(rates) * total_s, most=max(rates) * total_s)


def _look_at_all(
    scan: Scan, request: Request, report: Callable[[int], object]
) -> tuple[dict[str, float | None], list[tuple[str, Reason, str]], int]:
    """Seconds of the videos among the files that nobody looked at; failures; other files."""
    known = [row for row in scan.rows if row.path not in scan.to_probe]
    lengths: dict[str, float | None] = {}
    rows = [row for row in known if row.kind in ("failed", "other")]
    waiting = deque(_Look(row=row) for row in scan.rows if row.path in scan.to_probe)
    workers = [Worker(make_look_handler, ONE_THREAD, STUCK_S) for _ in range(request.jobs)]
    with Pool(workers) as pool:
        while waiting or pool.tasks:
            while waiting and pool.is_free:
                pool.submit(waiting.popleft())
            for _, result in collect([pool], 1.0):
                report(1)
                if isinstance(result, Finished):
                    lengths[result.task.row.path] = result.value
                else:
                    rows.append(failed_row(result.task.row, *reason_of(result)))
    failing = [
        (row.path, row.reason or Reason.UNEXPECTED, row.message or "")
        for row in rows
        if row.kind == "failed"
    ]
    return lengths, failing, sum(row.kind == "other" for row in rows)


def make_look_handler(progress: Progress) -> Callable[[_Look], float | None]:
    """A handler that opens files without reading them whole."""

    def look(task: _Look) -> float | None:
        path = Path(task.row.path)
        try:
            return glance(path)
        except OSError as error:
            raise VideoError(f"{path}: {error.strerror}", Reason.UNREADABLE) from error

    return look


def _done(request: Request, store: Store) -> set[str]:
    """Videos that are done by this model with these settings, if it was asked here before."""
    known = ModelFactsStore(store.models, request.settings, device=request.devices[0], weights=True)
    model = known.read()
    caches = None if model is None else Products.of(request.settings, model, store).caches
    return set() if caches is None else caches.whole()


def _analyze_some(
    request: Request,
    maker: CacheMaker,
    lengths: dict[str, float],
    folder: Path,
    report: Callable[[int], object],
) -> Iterator[tuple[str, Path]]:
    """Path and manifest of some videos, spread over their lengths; a bad one is passed over."""
    started_s = time.monotonic()
    paths = sorted(lengths, key=lambda path: (lengths[path], path))
    count = min(SAMPLED, len(paths))
    chosen = [paths[(2 * number + 1) * len(paths) // (2 * count)] for number in range(count)]
    for number, path in enumerate(sorted(chosen, key=lambda path: lengths[path])):
        if number and time.monotonic() - started_s > SAMPLE_S:
            return
        target = folder / str(number)
        settings = request.settings.analysis
        for made in make_manifests([Path(path)], target, maker.geometry, settings):
            report(1)
            if made.manifest is not None:
                yield path, made.manifest


def _measure(maker: CacheMaker, found: tuple[str, Path], lengths: dict[str, float]) -> _Sampled:
    path, file = found
    manifest = Manifest.read(file)
    return _Sampled(
        seconds=lengths[path],
        manifest_bytes=file.stat().st_size,
        cache_bytes=maker.plan(manifest, identify_weights=False).size_bytes,
        kept=int(manifest.kept.sum()),
        analyze_s=manifest.analyze_seconds,
    )


def _prefill_smallest(
    request: Request, maker: CacheMaker, manifests: Sequence[tuple[str, Path]], folder: Path
) -> tuple[float | None, float]:
    """Seconds of prefill a stored sample, and bytes as a share of those planned, which are a bound.

    Measured on the smallest of the sample; None and 1 if the weights are not here.
    """
    if checkpoint_folder(request.settings.model.name) is None or not manifests:
        return None, 1.0
    manifest = min((Manifest.read(file) for _, file in manifests), key=lambda one: one.kept.sum())
    maker.load()
    started_s = time.monotonic()
    made = maker.make(
        manifest,
        Destination.named(folder, "sample"),
        room=Allowance(folder=folder, quota_left=None),
    )
    seconds = time.monotonic() - started_s
    return seconds / int(manifest.kept.sum()), made.size_bytes / made.video.size_bytes
