"""Caches of any number of videos by one model, which is loaded when the first is written."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.manifest import Manifest
from batch.making.blocks import prefill
from batch.making.cache_plan import BLOCK_SAMPLES, VideoPlan, plan_video
from batch.making.destination import Destination, remove_unfinished
from batch.making.manifests import make_manifest
from batch.making.memory import Memory, estimate_video_memory
from batch.models import OpenModel, open_model
from batch.models.placement import first_device
from batch.settings import CacheSettings, ModelSettings
from batch.video import GeometryRule
from cachefmt import CacheFileError
from cachefmt.layout import file_size
from jobs.atomic import FULL, make_folder, move_into_place
from jobs.disk_space import Allowance
from jobs.errors import NoSpaceError

ReportSamples = Callable[[int], object]
"""Told how many more of a video's stored samples are done, those of finished segments first.

Less than none if memory ran out, and they are to be done again."""


@dataclass(frozen=True, kw_only=True)
class MadeCache:
    """A whole cache, and which of its segments were written just now."""

    path: Path
    """Its file, or folder of segments."""
    video: VideoPlan
    written: list[int]


class CacheMaker:
    """Makes caches with one model."""

    def __init__(self, model: ModelSettings | OpenModel, settings: CacheSettings) -> None:
        """Open the checkpoint; its weights wait for `load` or the first cache.

        Raises:
            ModelError: the model cannot be used, not on this device, or its prompts have no place
                for the times that are asked for.
        """
        self._model = open_model(model) if isinstance(model, ModelSettings) else model
        self._settings = settings
        if settings.timestamps:
            self._model.family.use_timestamps()

    @property
    def geometry(self) -> GeometryRule:
        """How a video's frames become the pictures that the model sees."""
        return self._model.family.geometry

    def load(self) -> None:
        """Load the weights, if they are not loaded yet.

        Raises:
            ModelError: they are missing or damaged.
        """
        self._model.load()

    def plan(
        self,
        manifest: Manifest,
        *,
        block_samples: int | None = None,
        identify_weights: bool = True,
    ) -> VideoPlan:
        """Plan a cache; no weights are loaded.

        Args:
            block_samples: None goes by the settings.
            identify_weights: as of `plan_cache`.

        Raises:
            ManifestError: the manifest was made for pictures of another geometry.
            ContextError: a single sample does not fit the model's context.
        """
        settings = self._settings
        if block_samples is not None:
            settings = replace(settings, block_samples=block_samples)
        return plan_video(
            manifest,
            self._model.family,
            settings,
            dtype=self._model.dtype,
            identify_weights=identify_weights,
        )

    def estimate_memory(self, video: VideoPlan) -> Memory:
        """What making a planned cache will hold in memory."""
        return estimate_video_memory(video, self._model.family, first_device(self._model.device))

    def make(
        self,
        manifest: Manifest,
        destination: Destination,
        *,
        room: Allowance,
        report: ReportSamples = lambda samples: None,
    ) -> MadeCache:
        """Write what is missing of a video's cache, in smaller blocks if memory runs out.

        Segments get their names one by one: of a run that is killed only the one in work is lost.

        Args:
            room: what the files may take.

        Raises:
            ContextError: a sample does not fit the model's context.
            ManifestError: the manifest is damaged, or was made for another geometry.
            BatchError: another cache is there, and is to be refused.
            MemoryError: it does not fit the memory, even a sample at a time.
            NoSpaceError: the cache has no room.
            CacheFileError: it cannot be written, or something else stands in its place.
        """
        block_samples = destination.block_samples(self._settings.block_samples or BLOCK_SAMPLES)
        while True:
            video = self.plan(manifest, block_samples=block_samples)
            numbers = destination.to_do(video)
            if not numbers or self._write(video, numbers, destination, room, report):
                return MadeCache(path=destination.cache(video), video=video, written=numbers)
            if block_samples == 1:
                raise MemoryError(f"{manifest.video.name}: a block of one sample does not fit")
            block_samples //= 2
            if destination.existing == "refuse":  # what is there now was looked at, or is ours
                destination = replace(destination, existing="repair")

    def _write(
        self,
        video: VideoPlan,
        numbers: list[int],
        destination: Destination,
        room: Allowance,
        report: ReportSamples,
    ) -> bool:
        """Whether the memory sufficed."""
        self.load()  # before anything is removed: it may fail
        destination.make_way(video)
        room.check(sum(file_size(video.headers[number]) for number in numbers))
        if video.is_cut:
            make_folder(destination.folder)
        done = sum(map(video.kept, range(len(video.headers)))) - sum(map(video.kept, numbers))
        report(done)

        def finished(more: int) -> None:
            nonlocal done
            done += more
            report(more)

        for number in numbers:
            target = destination.path(video, number)
            staged = destination.staged or target
            if not self._write_file(video, number, staged, finished):
                report(-done)
                return False
            if video.is_cut and staged != target:
                move_into_place(staged, target)
        if video.is_cut:
            remove_unfinished(destination.folder)
        return True

    def _write_file(
        self, video: VideoPlan, number: int, path: Path, progress: Callable[[int], object]
    ) -> bool:
        """Whether the memory sufficed."""
        try:
            prefill(video.segment(number), self._model.family, path, progress=progress)
        except CacheFileError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                raise NoSpaceError(str(error)) from error
            raise
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return True
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


def _is_out_of_memory(error: Exception) -> bool:
    # torch 2.13 has a class for devices only; its allocator for the processor says it in words.
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def make_cache(
    source: Path | str,
    folder: Path | str,
    *,
    model: ModelSettings | str = "demo",
    cache: CacheSettings | None = None,
    analysis: AnalysisSettings | None = None,
    force: bool = False,
) -> Path:
    """Run a model over a manifest, or over a video, and write its cache.

    For many videos make one `CacheMaker`, which keeps the model loaded.

    Args:
        source: a manifest of `make_manifest`, or a video, whose manifest then lands in `folder`.
        folder: where the cache goes; made if it is not there.
        cache: None: the usual settings.
        analysis: of a video; as of `make_manifest`.
        force: replace what is there of another video, model or settings.

    Returns:
        <stem>.safetensors, or for a video that does not fit the model's context the folder
        <stem>.segments. A cache of the same work that is there already is left as it is.

    Raises:
        BatchError, JobError, CacheFileError: as of `make_manifest` and `CacheMaker.make`.
    """
    source, folder = Path(source), Path(folder)
    chosen = ModelSettings(name=model) if isinstance(model, str) else model
    maker = CacheMaker(chosen, cache or CacheSettings())
    make_folder(folder)
    if source.suffix != ".parquet":
        source = make_manifest(source, folder, model=chosen, analysis=analysis, force=force)
    made = maker.make(
        Manifest.read(source),
        Destination.named(folder, source.stem, force=force),
        room=Allowance(folder=folder, quota_left=None),
    )
    return made.path
