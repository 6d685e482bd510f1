"""Calibrations of a model from videos: keys and values are counted in, block by block, then fitted.

A calibration is made of the beginning of each video, in one pass, in memory that does not grow
with their number.
"""

import gc
import json
import math
import os
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from batch.analysis.manifest import Manifest
from batch.errors import BatchError, ModelError
from batch.kv.rotation import why_fixed
from batch.making.cache_plan import CachePlan, plan_cache, usual_block_samples
from batch.making.computing import Computed, allocate, compute, keep, unrotated
from batch.making.fidelity import NeutralAnswers
from batch.making.fitting import fit, layer_groups, most_direction_bytes
from batch.making.header import RAW_DTYPES, TOOL, identify
from batch.making.memory import is_out_of_memory
from batch.making.segments import Span, cut
from batch.making.sensitivity import measure_sensitivity, weights
from batch.models import Family, OpenModel
from batch.settings import CacheSettings
from cachefmt import WHOLE_VIDEO, VideoIdentity
from cachefmt.calibration import CalibrationHeader, CalibrationShape, write_calibration
from cachefmt.codecs.basis import Moments
from cachefmt.header import ZERO_DIGEST
from cachefmt.tensors import TORCH_DTYPES
from jobs.atomic import publish, write_errors

MOST_COMPONENTS = 1024
"""Of a group of layers, unless told otherwise."""
SAMPLES_OF_A_VIDEO = 32
"""Stored samples that are counted in, the first ones: so no video outweighs the others."""
PROBED_VIDEOS = 3
"""The first ones: of them the sensitivity of layers is measured, by two short passes a layer."""
ENOUGH_TOKENS = 1000
"""Source: measured on the demo world with the step 0.7; one film (700 tokens) leaves 2.2 times the
error of nine, three (1,750 tokens) 1.2 times."""

_HEADER_BYTES = 100_000
"""More than names of some dozens of videos and of all tensors take."""
_STATE = "state"


class Calibrator:
    """Counts videos in, and fits the calibration of one model to them."""

    def __init__(
        self, model: OpenModel, settings: CacheSettings, *, components: int = MOST_COMPONENTS
    ) -> None:
        """No weights are loaded yet.

        Args:
            settings: of the caches that it is for.
            components: of a group of layers, at most.

        Raises:
            ModelError: keys of this model cannot be moved, which `klt` asks for.
        """
        reason = why_fixed(model.family.config)
        if reason is not None:
            raise ModelError(f"{model.family.checkpoint.name}: {reason}; it takes no calibration")
        self.tokens = 0
        self.videos: list[VideoIdentity] = []
        """That were counted in, whole or in part."""
        # Rows of reused cells are those of others: counted in, they would weigh twice.
        self._settings = replace(settings, reuse="samples", quality="lossless")
        self._model, self._components = model, components
        self._grid = (0, 0)
        """Rows and columns of the first video."""
        self._places = 0
        self._moments: list[Moments] = []
        self._text_ids = np.zeros(0, np.int32)
        self._text_rows = torch.zeros(0)
        self._kl = torch.zeros(model.family.decoder.layers, 2, dtype=torch.float64)
        """Summed over the videos of which it was measured, see `measure_sensitivity`."""
        self._manifests: set[str] = set()
        self._counted = 0
        """Rows of the video in work that were counted in."""

    def has(self, manifest: Manifest) -> bool:
        """Whether this was counted in, whole."""
        return manifest.sha256 in self._manifests

    def add(
        self, manifest: Manifest, *, progress: Callable[[int], object] = lambda samples: None
    ) -> None:
        """Count in the beginning of a video: its first stored samples, as many as fit the context.

        Args:
            progress: told how many samples of a block were counted in.

        Raises:
            ManifestError: the manifest was made for pictures of another geometry, or is damaged.
            ContextError: a single sample does not fit the model's context.
            BatchError: keys or values are not finite.
            MemoryError: it does not fit the memory, even a sample at a time.
        """
        family = self._model.load()
        self._counted = 0
        block_samples = self._settings.block_samples
        if block_samples is None:
            block_samples = usual_block_samples(manifest.geometry.cells, family.device)
        while not self._fits(manifest, block_samples, family, progress):
            if block_samples == 1:
                raise MemoryError(f"{manifest.video.name}: a block of one sample does not fit")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            block_samples //= 2
        self._manifests.add(manifest.sha256)

    def _fits(
        self,
        manifest: Manifest,
        block_samples: int,
        family: Family,
        progress: Callable[[int], object],
    ) -> bool:
        """Count a video in; False if the memory did not suffice."""
        try:
            self._add(self._plan(manifest, block_samples), family, progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _plan(self, manifest: Manifest, block_samples: int) -> CachePlan:
        family = self._model.family
        settings = replace(self._settings, block_samples=block_samples)
        further = np.flatnonzero(manifest.kept)[SAMPLES_OF_A_VIDEO:]
        if len(further):
            manifest = manifest.part(slice(0, int(further[0])))
        first = cut(
            manifest,
            family.layout,
            context=family.decoder.context,
            positions=settings.positions,
            reuse=settings.reuse,
        )[0]
        span = Span(segment=WHOLE_VIDEO, samples=first.samples)
        return plan_cache(manifest, family, settings, dtype=self._model.dtype, span=span)

    @torch.inference_mode()
    def _add(self, planned: CachePlan, family: Family, progress: Callable[[int], object]) -> None:
        geometry = planned.manifest.geometry
        place = planned.tables.places(planned.header.shape)
        if not self._moments:
            self._begin((geometry.rows, geometry.columns), int(place.max()) + 2)
        is_same = self._grid == (geometry.rows, geometry.columns)
        rest = self._places - 1
        place = np.where(place < 0, place, np.minimum(place, rest) if is_same else rest)
        prefix = allocate(planned, family)
        with closing(compute(planned, family, prefix)) as blocks:
            for computed in blocks:
                self._count_in(computed, planned, family, place[computed.block])
                keep(computed.cache, planned.plan.tier[computed.block])
                progress(computed.samples)
        if len(self.videos) <= PROBED_VIDEOS:
            next_position = planned.plan.next_position
            answers = NeutralAnswers(prefix, family, next_position=next_position)
            deviation = torch.cat([moments.scale(moments.means()) for moments in self._moments])
            self._kl += measure_sensitivity(answers, prefix, deviation)

    def _begin(self, grid: tuple[int, int], places: int) -> None:
        """Decide of which places there will be means; the last one is of what has no other."""
        self._grid, self._places = grid, places
        decoder = self._model.family.decoder
        for group in layer_groups(decoder):
            shape = (len(group), 2, decoder.heads, decoder.head_dim)
            sketch = 2 * self._components
            is_large = math.prod(shape) >= 2 * sketch
            self._moments.append(Moments(shape, places=places, sketch=sketch if is_large else None))

    def _count_in(
        self, computed: Computed, planned: CachePlan, family: Family, place: NDArray[np.int64]
    ) -> None:
        """Count in a block; tokens at negative places are text outside samples.

        What was counted in before memory ran out is not once more.
        """
        video = planned.manifest.video
        is_first = not self._counted
        is_new = np.arange(computed.block.start, computed.block.stop) >= self._counted
        is_inside = is_new & (place >= 0)
        inside = torch.from_numpy(is_inside)
        groups = [
            torch.cat(
                [unrotated(computed, planned, family, range(at, at + 1)).cpu() for at in group], 1
            )
            for group in layer_groups(family.decoder)
        ]
        if not all(bool(states.isfinite().all()) for states in groups):
            raise BatchError(f"{video.name}: keys or values are not finite in {self._model.dtype}")
        if is_first:
            text = slice(0, int(np.argmax(planned.plan.sample >= 0)))
            self._take_text(planned.plan.token_ids[text], torch.cat(groups, 1)[text])
            self.videos.append(VideoIdentity(sha256=video.sha256, name=video.name))
        for moments, states in zip(self._moments, groups, strict=True):
            moments.add(states[inside], place[is_inside])
        self.tokens += int(inside.sum())
        self._counted = max(self._counted, computed.block.stop)

    def _take_text(self, ids: NDArray[np.int32], rows: Tensor) -> None:
        """Of the text before the first sample what all videos have in common."""
        if not self.videos:
            self._text_ids, self._text_rows = ids.copy(), rows.clone()
            return
        length = min(len(ids), len(self._text_ids))
        differs = np.append(ids[:length] != self._text_ids[:length], True)
        shared = int(np.argmax(differs))
        self._text_ids, self._text_rows = self._text_ids[:shared], self._text_rows[:shared]

    def made(self, header: CalibrationHeader, videos: set[str]) -> bool:
        """Whether a calibration is what this one would be, of videos with these digests."""
        is_same_model = header.is_of(*identify(self._model.family, self._model.dtype))
        of_videos = {video.sha256 for video in header.videos}
        is_same = header.most_components == self._components and of_videos == videos
        return is_same_model and is_same

    @property
    def most_bytes(self) -> int:
        """Of the calibration that these videos give; it may have fewer components."""
        counts = [min(math.prod(one.shape), self._components) for one in self._moments]
        directions = sum(map(most_direction_bytes, self._moments, counts))
        others = sum(spec.size_bytes for spec in self._header(counts).specs().values())
        return others + directions + _HEADER_BYTES

    def publish(self, path: Path, staged: Path | None = None) -> bool:
        """Fit the calibration and give it its name, whole and once.

        Args:
            staged: where it waits for that, on the same disk; None: beside it.

        Returns:
            False if another process was first: then its calibration is there, and no other.

        Raises:
            CacheFileError, JobError: it cannot be written.
        """
        staged = staged or path.with_name(f".{path.name}.{os.getpid()}.tmp")
        staged.unlink(missing_ok=True)  # of a dead process: ids come again
        try:
            self._write(staged)
            return publish(staged, path)
        finally:
            staged.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        layers = len(layer_groups(self._model.family.decoder)[0])
        of_groups = torch.split(weights(self._kl), layers)
        fitted = [
            fit(moments, weight, self._components)
            for moments, weight in zip(self._moments, of_groups, strict=True)
        ]
        tensors = {
            f"{name}.{number:02}": tensor.numpy()
            for number, parts in enumerate(fitted)
            for name, tensor in parts.items()
        }
        header = self._header([len(parts["gain"]) for parts in fitted])
        raw = self._text_rows.to(TORCH_DTYPES[header.shape.raw_dtype])
        is_bits = raw.dtype == torch.bfloat16  # which numpy lacks
        tensors["text.rows"] = (raw.view(torch.int16) if is_bits else raw).numpy()
        write_calibration(path, header, tensors)

    def _header(self, components: list[int]) -> CalibrationHeader:
        decoder, dtype = self._model.family.decoder, self._model.dtype
        model, prompt = identify(self._model.family, dtype)
        return CalibrationHeader(
            tool=TOOL,
            model=model,
            prompt=prompt,
            shape=CalibrationShape(
                layers=decoder.layers,
                heads=decoder.heads,
                head_dim=decoder.head_dim,
                group_layers=len(layer_groups(decoder)[0]),
                raw_dtype=RAW_DTYPES[dtype],
                rows=self._grid[0],
                columns=self._grid[1],
                places=self._places,
                components=tuple(components),
            ),
            text_ids=tuple(map(int, self._text_ids)),
            videos=tuple(self.videos),
            tokens=self.tokens,
            most_components=self._components,
            data_sha256=ZERO_DIGEST,
        )

    def save(self, path: Path) -> None:
        """Write down all that was counted in, whole or not at all, to go on with it later."""
        tensors = {
            f"{number}.{name}": tensor
            for number, moments in enumerate(self._moments)
            for name, tensor in moments.tensors().items()
        }
        counted = {
            "grid": self._grid,
            "places": self._places,
            "text_ids": self._text_ids.tolist(),
            "videos": [asdict(video) for video in self.videos],
            "tokens": self.tokens,
            "manifests": sorted(self._manifests),
        }
        state = json.dumps([self._bound_to(), counted])
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with write_errors(path):
            rows = self._text_rows.contiguous()
            save_file({**tensors, "text": rows, "kl": self._kl}, unfinished, {_STATE: state})
            unfinished.replace(path)

    def resume(self, path: Path, manifests: Iterable[Manifest]) -> bool:
        """Go on with what `save` wrote, if it was of the same model, settings and components.

        Args:
            manifests: all that are to be counted in; what was counted of others is of no use.
        """
        try:
            with safe_open(path, "pt") as file:
                bound_to, counted = json.loads(file.metadata()[_STATE])
                asked_for = {manifest.sha256 for manifest in manifests}
                if bound_to != self._bound_to() or not asked_for.issuperset(counted["manifests"]):
                    return False
                self._begin(tuple(counted["grid"]), counted["places"])
                for number, moments in enumerate(self._moments):
                    names = {name: f"{number}.{name}" for name in moments.tensors()}
                    moments.count_in({name: file.get_tensor(it) for name, it in names.items()})
                self._text_rows, self._kl = file.get_tensor("text"), file.get_tensor("kl")
            self._text_ids = np.array(counted["text_ids"], np.int32)
            self.videos = [VideoIdentity(**video) for video in counted["videos"]]
            self.tokens, self._manifests = counted["tokens"], set(counted["manifests"])
        except FileNotFoundError:
            return False
        # Cut off, or damaged in whatever way: it is begun anew, with nothing of it.
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            self._moments, self.videos, self.tokens = [], [], 0
            self._kl = torch.zeros_like(self._kl)
            return False
        return True

    def _bound_to(self) -> list[Any]:
        """What must be the same for two halves to go together, as JSON has it."""
        model, prompt = identify(self._model.family, self._model.dtype)
        return [TOOL, asdict(model), asdict(prompt), asdict(self._settings), self._components]


def most_tokens(manifests: Iterable[Path]) -> int:
    """About how many tokens there are to be counted in; manifests that cannot be read have none."""
    tokens = 0
    for path in manifests:
        with suppress(BatchError):
            manifest = Manifest.read(path)
            kept = min(int(manifest.kept.sum()), SAMPLES_OF_A_VIDEO)
            tokens += kept * manifest.geometry.cells
    return tokens


def count_in(
    calibrator: Calibrator,
    manifests: Iterable[Path],
    *,
    report: Callable[[int], object] = lambda samples: None,
    failed: Callable[[Path, Exception], object],
    saved: Path | None = None,
) -> None:
    """Count in the videos of some manifests; one that cannot be used does not stop the others.

    Args:
        report: told how many more samples are counted in.
        failed: told which video could not be used, and why.
        saved: where it is written down after each video, to go on there.
    """
    for path in manifests:
        try:
            manifest = Manifest.read(path)
            if calibrator.has(manifest):
                report(min(int(manifest.kept.sum()), SAMPLES_OF_A_VIDEO))
                continue
            calibrator.add(manifest, progress=report)
        except Exception as error:  # the boundary of one video: named, the others go on
            failed(path, error)
            continue
        if saved is not None:
            calibrator.save(saved)
