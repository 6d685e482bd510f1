"""Manifests of many videos, each decoded in a process that may die of it. Knows no torch.

A decoder that crashes or hangs, or a process that the kernel kills, costs its own video only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import joblib

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest, read_header
from batch.errors import ManifestError
from batch.making.failures import describe_failure
from batch.settings import ModelSettings
from batch.version import __version__
from batch.video import GeometryRule, VideoInfo, geometry_for, probe
from jobs.atomic import fitting_stem, make_folder, write_errors
from jobs.disk_space import Allowance
from jobs.errors import NoSpaceError
from jobs.workers import Finished, Pool, Progress, Raised, Result, Worker, collect

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of workers: as many as there are cores must not each start as many threads."""
STUCK_S = 600.0
"""A process that for so long decodes no frame and reads nothing new of its video is stuck."""


def keep_opencv_to_one_thread() -> None:
    """In a worker: OpenCV 5.0 has threads of its own, which OMP_NUM_THREADS does not reach."""
    import cv2

    cv2.setNumThreads(1)


@dataclass(frozen=True, kw_only=True)
class Analyzed:
    """What became of one video: `error` is None exactly when `manifest` is a whole file."""

    video: Path
    manifest: Path | None = None
    error: str | None = None
    warning: str | None = None
    """What of the video could not be read."""
    skipped: bool = False


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
    model: ModelSettings | str,
    analysis: AnalysisSettings | None = None,
    force: bool = False,
) -> Path:
    """Analyse a video, in this process, into a Parquet file.

    Args:
        folder: where the manifest goes, as <stem>.parquet; made if it is not there.
        model: whose geometry the samples get; its weights are not needed.
        analysis: None: the default profile, a sample a second.

    Returns:
        The manifest. One of the same video and settings that is there already is left as it is.

    Raises:
        VideoError: the video cannot be opened or decoded.
        ManifestError: another one is there, which `force` would replace.
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

    Raises:
        ValueError: two videos would share one manifest.
        JobError: the folder cannot be made; while results come, that its disk is full.
    """
    targets = manifest_paths(videos, folder)
    make_folder(folder)
    tasks = [
        _Task(video=video, target=target, rule=rule, settings=settings, force=force)
        for video, target in targets.items()
    ]
    return _run_all(tasks, max(1, min(processes, len(tasks))))


def manifest_paths(videos: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the manifest of each video goes: `folder`/<stem>.parquet.

    Raises:
        ValueError: two videos would share one; both are named.
    """
    taken: dict[Path, Path] = {}
    for video in videos:
        target = folder / f"{fitting_stem(video.stem)}.parquet"
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
        JobError: the manifest has no room, or cannot be written.
    """
    with write_errors(target):
        manifest = analyze_video(info, rule, settings, folder=target.parent, progress=progress)
        room.check(manifest.most_bytes())
        manifest.write(target)
    return manifest


def _run_all(tasks: Sequence[_Task], processes: int) -> Iterator[Analyzed]:
    """Threads of joblib, each with a process of its own, so that who died of which video is known.

    joblib's own processes share one fate: a worker that dies ends all of them (joblib 1.5).
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for _ in range(processes):
        free.put(Worker(_make_handler, ONE_THREAD, STUCK_S))
    stopped = Event()
    threads = joblib.Parallel(processes, "threading", return_as="generator_unordered")
    try:
        yield from threads(joblib.delayed(_run)(task, free, stopped) for task in tasks)
    finally:
        # joblib leaves its threads at work after Ctrl-C; a worker is ended by who holds it alone.
        stopped.set()
        for worker in [free.get() for _ in range(processes)]:
            worker.end(at_once=True)
            free.put(worker)


def _run(task: _Task, free: "SimpleQueue[Worker]", stopped: Event) -> Analyzed | None:
    """None if all is to stop.

    Raises:
        NoSpaceError: the disk is full.
    """
    worker = free.get()
    ended: list[tuple[Worker, Result]] = []
    try:
        if not stopped.is_set():
            worker.submit(task)
        while not ended and not stopped.is_set():
            ended = collect([Pool([worker])], timeout_s=0.2)
    finally:
        free.put(worker)
    if not ended:
        return None
    result = ended[0][1]
    if isinstance(result, Raised) and isinstance(result.error, NoSpaceError):
        raise result.error  # the others would have no room either
    if isinstance(result, Finished):
        analyzed: Analyzed = result.value
        return analyzed
    return Analyzed(video=task.video, error=describe_failure(task.video, result))


def _make_handler(progress: Progress) -> Callable[[_Task], Analyzed]:
    keep_opencv_to_one_thread()
    return lambda task: _make(task, progress)


def _make(task: _Task, progress: Progress) -> Analyzed:
    info = probe(task.video, progress=progress)
    skipped = not task.force and task.target.exists() and _is_done(task, info)
    if not skipped:
        room = Allowance(folder=task.target.parent, quota_left=None)
        write_manifest(info, task.target, task.rule, task.settings, room=room, progress=progress)
    warning = read_header(task.target).warning
    return Analyzed(video=task.video, manifest=task.target, warning=warning, skipped=skipped)


def _is_done(task: _Task, info: VideoInfo) -> bool:
    found, settings = Manifest.read(task.target).header, task.settings
    geometry = geometry_for(task.rule, info, settings.sampling)
    got = {"video": f"SHA-256 {found.video.sha256[:8]}", "geometry": found.geometry}
    expected = {"video": f"SHA-256 {info.sha256[:8]}", "geometry": geometry}
    for facts, by in ((got, found), (expected, settings)):
        facts |= asdict(by.sampling) | by.temporal.to_dict() | by.thresholds.to_dict()
        facts["saliency network"] = by.saliency_sha256
    got["version"], expected["version"] = found.tool, __version__
    for name in expected:
        if got[name] != expected[name]:
            raise ManifestError(
                f"{task.target}: already holds {found.video.name}, but of other work; {name}: got "
                f"{got[name]}, expected {expected[name]}; --force replaces it"
            )
    return True
