"""A video's cache, as one task of many: the model stays loaded from one to the next."""

import gc
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from batch.analysis.manifest import Manifest
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Prefill, Staged
from batch.models import open_family
from batch.models.device import choose_device, choose_dtype
from batch.prefill import Prefill as Plan
from batch.prefill import plan_cache, prefill
from batch.prefill.run import BLOCK_SAMPLES
from cachefmt import CacheFile, CacheFileError
from jobs.atomic import FULL
from jobs.errors import NoSpaceError


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

    def prefill(self, task: Prefill) -> Staged:
        """Write a cache to a temporary place, in smaller blocks if memory runs out.

        Raises:
            ContextError: the video does not fit the model's context.
            ManifestError: the manifest is damaged.
            MemoryError: it does not fit the memory, even a sample at a time.
            NoSpaceError: the cache has no room.
        """
        began = time.monotonic()
        manifest = Manifest.read(task.manifest)
        block_samples = self._settings.block_samples or BLOCK_SAMPLES
        while True:
            plan = self._plan(manifest, block_samples)
            task.allowance.check(plan.size_bytes)
            if self._run(plan, task.staged):
                break
            if block_samples == 1:
                raise MemoryError(f"{manifest.video.name}: a block of one sample does not fit")
            block_samples //= 2
        return Staged(facts=_facts(plan, task.staged), began_s=began, ended_s=time.monotonic())

    def _plan(self, manifest: Manifest, block_samples: int) -> Plan:
        settings = self._settings
        return plan_cache(
            manifest,
            self._family,
            dtype=self._dtype,
            positions=settings.positions,
            pointers=settings.pointers,
            block_samples=block_samples,
        )

    def _run(self, plan: Plan, staged: Path) -> bool:
        """Whether the memory sufficed."""
        self.load()
        try:
            prefill(plan, self._family, staged)
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


def _facts(plan: Plan, staged: Path) -> dict[str, Any]:
    shape, slots = plan.header.shape, plan.plan.slots
    fp16_kv_bytes = 4 * slots * shape.layers * shape.heads * shape.head_dim
    with CacheFile.open(staged) as cache:
        _, encode_s, prefill_s = cache.array("cost.seconds").tolist()
    return {
        "slots": slots,
        **{f"tokens_{tier.lower()}": count for tier, count in shape.tokens.items()},
        "block_samples": plan.block_samples,
        "cache_bytes": plan.size_bytes,
        "fp16_kv_bytes": fp16_kv_bytes,
        "encode_seconds": encode_s,
        "prefill_seconds": prefill_s,
        "tool": version("sali-cache"),
        "torch": version("torch"),  # torch.__version__ would be unpickled by importing torch
        "transformers": version("transformers"),
    }
