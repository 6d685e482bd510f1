"""Caches of any number of videos by one model, which is loaded when the first is written."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.manifest import Manifest
from batch.kv.rotation import why_fixed
from batch.making.blocks import prefill
from batch.making.budget import within_budget
from batch.making.cache_plan import (
    CachePlan,
    VideoPlan,
    check_geometry,
    plan_cache,
    usual_block_samples,
)
from batch.making.destination import Destination, remove_unfinished
from batch.making.header import identify, promised_kl
from batch.making.manifests import make_manifest
from batch.making.memory import Memory, estimate_memory, is_out_of_memory
from batch.making.segments import Span, cut
from batch.models import OpenModel, open_model
from batch.models.placement import first_device
from batch.settings import CacheSettings, ModelSettings
from batch.video import GeometryRule
from cachefmt import CacheFile, CacheFileError, Header
from jobs.atomic import FULL, make_folder, move_into_place
from jobs.disk_space import Allowance
from jobs.errors import NoSpaceError

if TYPE_CHECKING:
    from cachefmt.calibration import Calibration

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
    size_bytes: int
    """Of all its files."""
    headers: tuple[Header, ...]
    """Of its files, with what was found when they were written."""

    @property
    def note(self) -> str | None:
        """What a person should know of it."""
        pairs = zip(self.video.headers, self.headers, strict=True)
        exact = sum(plan.codec.name != made.codec.name for plan, made in pairs)
        if not exact:
            return self.video.note
        what = f"{exact} of {len(self.headers)} segments are" if self.video.is_cut else "is"
        return (
            f"{what} kept as computed, at quality lossless: at no step of the codec was the KL "
            f"within {promised_kl(self.headers[0])}"
        )

    @property
    def worst(self) -> Header:
        """Of the file with the largest error."""

        def error(header: Header) -> float:
            return 0.0 if header.fidelity is None else header.fidelity.kl

        return max(self.headers, key=error)

    @property
    def measured(self) -> dict[str, float | None]:
        """Error and agreement of the worst file; None: not measured."""
        header = self.worst
        if header.codec.name == "plain":
            return {"kl": 0.0, "agreement": 1.0}
        if header.fidelity is None:
            return {"kl": None, "agreement": None}
        return {"kl": header.fidelity.kl, "agreement": header.fidelity.agreement}


class CacheMaker:
    """Makes caches with one model."""

    def __init__(
        self,
        model: ModelSettings | OpenModel,
        settings: CacheSettings,
        calibration: "Calibration | None" = None,
    ) -> None:
        """Open the checkpoint; its weights wait for `load` or the first cache.

        Where keys cannot be moved, samples are reused instead of cells.

        calibration: of this model and its prompt; see `use_calibration_in`.

        Raises:
            ModelError: it cannot be used here, or its prompts have no place for times.
        """
        self._model = open_model(model) if isinstance(model, ModelSettings) else model
        self._settings = settings
        self._note = None
        fixed = why_fixed(self._model.family.config)
        if settings.reuse == "cells" and fixed is not None:
            self._settings = replace(settings, reuse="samples")
            self._note = f"reuses whole samples, no cells: {fixed}"
        self.calibration = calibration
        if settings.timestamps:
            self._model.family.use_timestamps()

    @property
    def geometry(self) -> GeometryRule:
        return self._model.family.geometry

    @property
    def model(self) -> OpenModel:
        return self._model

    @property
    def settings(self) -> CacheSettings:
        return self._settings

    def use_calibration_in(self, folder: Path, *, identify_weights: bool = True) -> bool:
        """Write further caches with the calibration of this model in a folder, if one is there.

        Args:
            identify_weights: as of `plan_cache`; without, that of any weights will do.

        Returns:
            Whether one is used; it is not asked for if the settings have no use for it.

        Raises:
            CacheFileError: a calibration there is damaged.
        """
        if self._settings.quality == "lossless" or self.calibration is not None:
            return self.calibration is not None
        from cachefmt.calibration import Calibration
        from cachefmt.calibration_files import find_calibration, has_calibrations

        if has_calibrations(folder):
            identity = identify(self._model.family, self._model.dtype, weights=identify_weights)
            found = find_calibration(folder, *identity)
            self.calibration = None if found is None else Calibration.open(found)
        return self.calibration is not None

    def load(self) -> None:
        self._model.load()

    def plan(
        self,
        manifest: Manifest,
        *,
        block_samples: int | None = None,
        identify_weights: bool = True,
    ) -> VideoPlan:
        """Plan a cache in as few segments as the context asks for, within the budget; no weights
        are loaded.

        Args:
            block_samples: None goes by the settings, and without by model and device.
            identify_weights: as of `plan_cache`.

        Raises:
            ManifestError: the manifest was made for pictures of another geometry.
            ContextError: a single sample does not fit the model's context.
            BudgetError: the budget cannot be kept.
        """
        block_samples = block_samples or self._most_block_samples(manifest)
        settings = replace(self._settings, block_samples=block_samples)
        check_geometry(manifest, self._model.family)
        return within_budget(
            lambda times: self._plan(
                manifest.raised(times), settings, block_samples, identify_weights
            ),
            settings,
        )

    def _plan(
        self,
        manifest: Manifest,
        settings: CacheSettings,
        block_samples: int,
        identify_weights: bool,
    ) -> VideoPlan:
        family, dtype = self._model.family, self._model.dtype
        spans = cut(
            manifest,
            family.layout,
            context=family.decoder.context,
            positions=settings.positions,
            reuse=settings.reuse,
        )

        def plan(span: Span) -> CachePlan:
            return plan_cache(
                manifest,
                family,
                settings,
                dtype=dtype,
                identify_weights=identify_weights,
                span=span,
                calibration=self.calibration,
            )

        sized = [(one.header, one.size_bytes, one.codec_note) for one in map(plan, spans)]
        headers, sizes, notes = zip(*sized, strict=True)
        return VideoPlan(
            manifest=manifest,
            spans=tuple(spans),
            headers=headers,
            sizes=sizes,
            note="; ".join(filter(None, (self._note, notes[0]))) or None,
            block_samples=block_samples,
            plan=plan,
        )

    def estimate_memory(self, video: VideoPlan) -> Memory:
        """What the largest segment will hold: one is prefilled at a time."""
        segments = map(video.segment, range(len(video.headers)))
        device = first_device(self._model.device)
        expected = [estimate_memory(planned, self._model.family, device) for planned in segments]
        return replace(
            expected[0],
            tiers_bytes=max(memory.tiers_bytes for memory in expected),
            block_bytes=max(memory.block_bytes for memory in expected),
        )

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

        Raises:
            ContextError, BudgetError, ManifestError: as of `plan`; or the manifest is damaged.
            BatchError: another cache is there, and is to be refused.
            MemoryError: it does not fit the memory, even a sample at a time.
            NoSpaceError: the cache has no room.
            CacheFileError: it cannot be written, or something else stands in its place.
        """
        block_samples = self._most_block_samples(manifest)
        there = destination.block_samples()
        if there is not None and self._settings.block_samples is None:
            block_samples = there
        elif there is not None and destination.existing == "repair":
            block_samples = min(block_samples, there)
        while True:
            video = self.plan(manifest, block_samples=block_samples)
            numbers = destination.to_do(video)
            if not numbers or self._write(video, numbers, destination, room, report):
                return _made(video, numbers, destination)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if block_samples == 1:
                raise MemoryError(f"{manifest.video.name}: a block of one sample does not fit")
            block_samples //= 2
            if destination.existing == "refuse":  # what is there by now is of this run
                destination = replace(destination, existing="repair")

    def _most_block_samples(self, manifest: Manifest) -> int:
        """What a cache is begun with, before memory runs out."""
        asked = self._settings.block_samples
        device = first_device(self._model.device)
        return asked or usual_block_samples(manifest.geometry.cells, device)

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
        if destination.existing == "replace":  # whole files go only for what has room
            room.check(sum(video.sizes[number] for number in numbers))
        destination.make_way(video)
        if video.is_cut:
            make_folder(destination.folder)
        to_do = sum(video.headers[number].shape.stored_samples for number in numbers)
        done = video.stored_samples - to_do
        report(done)

        def finished(more: int) -> None:
            nonlocal done
            done += more
            report(more)

        try:
            for number in numbers:
                room.check(video.sizes[number])  # a bound, far above what a segment takes
                target = destination.path(video, number)
                staged = destination.staged or target
                prefill(video.segment(number), self._model.family, staged, progress=finished)
                if video.is_cut and staged != target:
                    move_into_place(staged, target)
                if video.is_cut:
                    room = room.after(target.stat().st_size)
        except CacheFileError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                raise NoSpaceError(str(error)) from error
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            report(-done)
            return False
        if video.is_cut:
            remove_unfinished(destination.folder)
        return True


def _made(video: VideoPlan, written: list[int], destination: Destination) -> MadeCache:
    headers, size_bytes = [], 0
    for path in destination.files(video):
        with CacheFile.open(path) as cache:
            headers.append(cache.header)
            size_bytes += cache.size_bytes
    return MadeCache(
        path=destination.cache(video),
        video=video,
        written=written,
        size_bytes=size_bytes,
        headers=tuple(headers),
    )


def make_cache(
    source: Path | str,
    folder: Path | str,
    *,
    model: ModelSettings | str,
    cache: CacheSettings | None = None,
    analysis: AnalysisSettings | None = None,
    force: bool = False,
) -> Path:
    """Run a model over a manifest, or over a video, and write its cache.

    For many videos make one `CacheMaker`, which keeps the model loaded.

    Args:
        source: a manifest, or a video, whose manifest then lands in `folder`.
        folder: where the cache goes; made if it is not there.
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
    maker.use_calibration_in(folder)
    made = maker.make(
        Manifest.read(source),
        Destination.named(folder, source.stem, force=force),
        room=Allowance(folder=folder, quota_left=None),
    )
    return made.path
