"""A video's cache, as one task of many: the model stays loaded from one to the next."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from batch.analysis.manifest import Manifest
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Prefill, Staged
from batch.making import Prefill as Plan
from batch.making import (
    VideoPlan,
    plan_video,
    prefill,
    remove_cache,
    remove_foreign,
    segments_to_do,
)
from batch.making.run import BLOCK_SAMPLES
from batch.models import open_family
from batch.models.device import choose_device, choose_dtype
from cachefmt import CacheFile, CacheFileError
from cachefmt.layout import file_size
from cachefmt.segments import FILE_SUFFIX
from jobs.atomic import FULL, move_into_place
from jobs.errors import NoSpaceError
from jobs.workers import Progress


class Prefiller:
    """A model on one device."""

    def __init__(self, settings: IndexSettings, *, device: str | None, threads: int) -> None:
        """Open the checkpoint; its weights wait for `load` or the first prefill.

        Raises:
            ModelError: the model cannot be used, or not on this device.
        """
        torch.set_num_threads(threads)
        self._settings = settings
        self._device = choose_device(device)
        self._family = open_family(
            settings.model, revision=settings.revision, offline=settings.offline
        )
        self._dtype = choose_dtype(settings.dtype, self._device, self._family.checkpoint)
        if settings.timestamps:
            self._family.use_timestamps()

    def load(self) -> None:
        """Load the weights.

        Raises:
            ModelError: they are missing or damaged.
        """
        if not self._family.is_loaded:
            self._family.load(
                device=self._device,
                dtype=getattr(torch, self._dtype),
                attention=self._settings.attn,
            )

    def prefill(self, task: Prefill, progress: Progress = lambda: None) -> Staged:
        """Write a cache, in smaller blocks if memory runs out.

        A file stays in its temporary place. Segments go to their folder one by one, and those that
        are there already are not made again: of a run that is killed only the segment in work is
        lost.

        Args:
            progress: called when the weights are loaded and behind each block.

        Raises:
            ContextError: a sample does not fit the model's context.
            ManifestError: the manifest is damaged.
            MemoryError: it does not fit the memory, even a sample at a time.
            NoSpaceError: the cache has no room.
        """
        began = time.monotonic()
        manifest = Manifest.read(task.manifest)
        block_samples = self._settings.block_samples or BLOCK_SAMPLES
        # Where segments are there of smaller blocks, the memory had no room for larger ones.
        block_samples = min([block_samples, *_blocks_of(task.segments)])
        while True:
            video = self._plan(manifest, block_samples)
            if self._write(video, task, progress):
                break
            if block_samples == 1:
                raise MemoryError(f"{manifest.video.name}: a block of one sample does not fit")
            block_samples //= 2
        paths = [video.path(task.segments, number) for number in range(len(video.headers))]
        facts = _facts(video, paths if video.is_cut else [task.staged], block_samples)
        return Staged(facts=facts, began_s=began, ended_s=time.monotonic())

    def _plan(self, manifest: Manifest, block_samples: int) -> VideoPlan:
        settings = self._settings
        return plan_video(
            manifest,
            self._family,
            dtype=self._dtype,
            positions=settings.positions,
            pointers=settings.pointers,
            block_samples=block_samples,
        )

    def _write(self, video: VideoPlan, task: Prefill, progress: Progress) -> bool:
        """Write what of a cache is missing; whether the memory sufficed."""
        self.load()  # before anything is removed: it may fail
        progress()
        if not video.is_cut:
            remove_cache(task.segments)
            task.allowance.check(video.size_bytes)
            return self._run(video.segment(0), task.staged, progress)
        remove_foreign(video, task.segments)
        numbers = segments_to_do(video, task.segments, force=False)
        task.allowance.check(sum(file_size(video.headers[number]) for number in numbers))
        for number in numbers:
            if not self._run(video.segment(number), task.staged, progress):
                return False
            move_into_place(task.staged, video.path(task.segments, number))
        return True

    def _run(self, plan: Plan, staged: Path, progress: Progress) -> bool:
        """Whether the memory sufficed."""
        try:
            prefill(plan, self._family, staged, progress=lambda samples: progress())
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


def _blocks_of(folder: Path) -> Iterator[int]:
    """Samples a block of the segments that are there and can be read."""
    for file in folder.glob(f"[0-9]*{FILE_SUFFIX}"):
        with suppress(CacheFileError), CacheFile.open(file) as cache:
            block_samples = cache.header.policy.parameters.get("block_samples")
            if isinstance(block_samples, int) and block_samples > 0:
                yield block_samples


def _facts(video: VideoPlan, files: Sequence[Path], block_samples: int) -> dict[str, Any]:
    encode_s, prefill_s = 0.0, 0.0
    for file in files:
        with CacheFile.open(file) as cache:
            _, encode, prefill = cache.array("cost.seconds").tolist()
        encode_s, prefill_s = encode_s + encode, prefill_s + prefill
    return {
        "slots": video.slots,
        **{f"tokens_{tier.lower()}": count for tier, count in video.tokens.items()},
        "block_samples": block_samples,
        "segments": len(video.headers),
        "cache_bytes": video.size_bytes,
        "fp16_kv_bytes": sum(header.fp16_kv_bytes for header in video.headers),
        "encode_seconds": encode_s,
        "prefill_seconds": prefill_s,
        "tool": version("sali-cache"),
        "torch": version("torch"),  # torch.__version__ would be unpickled by importing torch
        "transformers": version("transformers"),
    }
