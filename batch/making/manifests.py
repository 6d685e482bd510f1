"""Manifests of many videos, each decoded in a process that may die of it. Knows no torch.

A decoder that crashes or hangs, or a process that the kernel kills, costs its own video only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import joblib

from batch.analysis.analyze import AnalysisSettings, analyze_video, manifest_header
from batch.analysis.manifest import Manifest, read_header
from batch.analysis.pictures import ROWS_TOGETHER
from batch.errors import ManifestError
from batch.making.failures import is_ours, reason_of
from batch.settings import ModelSettings
from batch.video import GeometryRule, VideoInfo, probe
from jobs.atomic import FULL, make_folder
from jobs.disk_space import Allowance
from jobs.errors import NoSpaceError
from jobs.workers import Finished, Pool, Progress, Raised, Worker, collect

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of workers: as many as there are cores must not each start as many threads."""
STUCK_S = 600.0
"""A process that for so long decodes no frame and reads nothing new of its video is stuck."""

_ROOM_FOR_FOOTER = 1 << 14
"""Of a manifest's schema and header; measured: 7 kB."""
_ROOM_FOR_ROWS_TOGETHER = 1 << 12
"""Of what Parquet says of each row group; measured: 2 kB."""


@dataclass(frozen=True, kw_only=True)
class Analyzed:
    """What became of one video: `error` is None exactly when `manifest` is a whole file.

    `warning` says what of the video could not be read; None: nothing, or there is an error.
    """

    video: Path
    manifest: Path | None
    error: str | None
    warning: str | None
    skipped: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Task:
    video: Path
    target: Path
    rule: GeometryRule
    settings: AnalysisSettings
    force: bool


def make_manifest(
    video: Path | str,
    folder: Path | str,
    *,
    model: ModelSettings | str = "demo",
    analysis: AnalysisSettings | None = None,
    force: bool = False,
) -> Path:
    """Analyse a video, in this process, into a Parquet file.

    Args:
        folder: where the manifest goes, as <stem>.parquet; made if it is not there.
        model: whose geometry the samples get; its weights are not needed.
        analysis: None: the default profile, a sample a second.
        force: replace a manifest of another video or of other settings.

    Returns:
        The manifest. One of the same video and settings that is there already is left as it is.

    Raises:
        VideoError: the video cannot be opened or decoded.
        ManifestError: another manifest is there, and no `force`.
        ModelError: there is no such model.
        JobError: the manifest cannot be written.
    """
    from batch.models import open_family

    chosen = ModelSettings(name=model) if isinstance(model, str) else model
    family = open_family(chosen.name, revision=chosen.revision, offline=chosen.offline)
    video, folder = Path(video), Path(folder)
    make_folder(folder)
    task = _Task(
        video=video,
        target=manifest_paths([video], folder)[video],
        rule=family.geometry,
        settings=analysis or AnalysisSettings.of_profile(),
        force=force,
    )
    _make(task, lambda: None)
    return task.target


def make_manifests(
    videos: Sequence[Path],
    folder: Path,
    rule: GeometryRule,
    settings: AnalysisSettings,
    *,
    processes: int = 1,
    force: bool = False,
) -> Iterator[Analyzed]:
    """Write a manifest of each video; yields results as they come, in no order.

    A manifest of the same content and settings is skipped; one of others is an error of that
    video, unless `force`. A video that fails does not stop the others.

    Args:
        rule: how frames become the pictures that the model sees.
        processes: that open videos at the same time, one thread each.

    Raises:
        ValueError: two videos would share one manifest.
        JobError: the folder cannot be made.
    """
    targets = manifest_paths(videos, folder)
    make_folder(folder)
    tasks = [
        _Task(video=video, target=target, rule=rule, settings=settings, force=force)
        for video, target in targets.items()
    ]
    return _run_all(tasks, min(processes, len(tasks)))


def manifest_paths(videos: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the manifest of each video goes: `folder`/<stem>.parquet.

    Raises:
        ValueError: two videos would share one; both are named.
    """
    taken: dict[Path, Path] = {}
    for video in videos:
        target = folder / f"{video.stem}.parquet"
        if target in taken:
            raise ValueError(f"{taken[target]} and {video} would both be written to {target}")
        taken[target] = video
    return {video: target for target, video in taken.items()}


def write_manifest(
    info: VideoInfo,
    target: Path,
    rule: GeometryRule,
    settings: AnalysisSettings,
    *,
    room: Allowance,
    progress: Callable[[], object],
) -> Manifest:
    """Analyse a video and write its manifest, whole or not at all.

    Raises:
        VideoError: the video cannot be decoded.
        NoSpaceError: the manifest has no room.
    """
    try:
        manifest = analyze_video(info, rule, settings, folder=target.parent, progress=progress)
        room.check(_most_bytes(manifest))
        manifest.write(target)
    except OSError as error:
        if error.errno in FULL:
            raise NoSpaceError(f"{target}: {error.strerror}") from error
        raise
    return manifest


def _run_all(tasks: Sequence[_Task], processes: int) -> Iterator[Analyzed]:
    """Threads of joblib, each with a process of its own, so that who died of which video is known.

    joblib's own processes share one fate: a worker that dies ends all of them (joblib 1.5).
    """
    workers = [Worker(_make_handler, ONE_THREAD, STUCK_S) for _ in range(processes)]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    with Pool(workers):
        threads = joblib.Parallel(processes, "threading", return_as="generator_unordered")
        yield from threads(joblib.delayed(_run)(task, free) for task in tasks)


def _run(task: _Task, free: "SimpleQueue[Worker]") -> Analyzed:
    worker = free.get()
    started = time.perf_counter()
    worker.submit(task)
    while not (ended := collect([Pool([worker])], timeout_s=1.0)):
        pass
    free.put(worker)
    result = ended[0][1]
    if isinstance(result, Finished):
        analyzed: Analyzed = result.value
        return analyzed
    what = reason_of(result)[1]
    is_named = isinstance(result, Raised) and is_ours(result.error)
    return Analyzed(
        video=task.video,
        manifest=None,
        error=what if is_named else f"{task.video}: {what}",
        warning=None,
        skipped=False,
        seconds=time.perf_counter() - started,
    )


def _make_handler(progress: Progress) -> Callable[[_Task], Analyzed]:
    import cv2

    # OpenCV 5.0 has threads of its own, which OMP_NUM_THREADS does not reach.
    cv2.setNumThreads(1)
    return lambda task: _make(task, progress)


def _make(task: _Task, progress: Progress) -> Analyzed:
    started = time.perf_counter()
    info = probe(task.video, progress=progress)
    skipped = not task.force and task.target.exists() and _is_done(task, info)
    if not skipped:
        room = Allowance(folder=task.target.parent, quota_left=None)
        write_manifest(info, task.target, task.rule, task.settings, room=room, progress=progress)
    return Analyzed(
        video=task.video,
        manifest=task.target,
        error=None,
        warning=read_header(task.target).warning,
        skipped=skipped,
        seconds=time.perf_counter() - started,
    )


def _is_done(task: _Task, info: VideoInfo) -> bool:
    found = Manifest.read(task.target).header
    read = (found.broken_frames, found.decoded_s, found.interval_s)
    if found.same_work(manifest_header(info, task.rule, task.settings, *read)):
        return True
    differs = "video" if found.video.sha256 != info.sha256 else "settings"
    raise ManifestError(
        f"{task.target}: already holds {found.video.name} with other {differs}; --force replaces it"
    )


def _most_bytes(manifest: Manifest) -> int:
    """Size of the file if nothing could be compressed."""
    signals = manifest.signals
    arrays: tuple[Any, ...] = (
        *(manifest.frame, manifest.pts_s, manifest.tier, signals.source, signals.redundancy),
        *(signals.flow_px, signals.difference, signals.saliency),
    )
    groups = -(-len(manifest.frame) // ROWS_TOGETHER)
    footer = _ROOM_FOR_FOOTER + groups * _ROOM_FOR_ROWS_TOGETHER
    pictures = sum(len(png) for png in manifest.pictures if png is not None)
    size_bytes: int = sum(array.nbytes for array in arrays)
    return size_bytes + pictures + footer
