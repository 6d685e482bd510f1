"""The file of a prefill: its blocks, written behind the computation, and what it is searched by."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.errors import BudgetError
from batch.kv import Prefix
from batch.kv.rotation import unrotate
from batch.kv.sample_bounds import SampleBounds
from batch.making.cache_plan import CachePlan
from batch.making.codec import SEARCHED_STEPS, plain_codec
from batch.making.computing import Clock, Computed, Seconds, allocate, compute, keep
from batch.making.fidelity import NeutralAnswers
from batch.making.file_blocks import FileBlocks, KeptBlocks, KltBlocks, PlainBlocks, file_blocks
from batch.making.header import is_searched
from batch.making.write_behind import WriteBehind
from batch.models import Family
from cachefmt import CacheWriter, Fidelity


@torch.inference_mode()
def prefill(
    planned: CachePlan,
    family: Family,
    path: Path,
    *,
    progress: Callable[[int], object] = lambda samples: None,
) -> Seconds:
    """Run a planned prefill with a loaded model and write the cache, whole or not at all.

    `progress` is told the number of samples of each block when it is done, but for what of the
    file is still being written. The error of a file that is not exact is measured and written too.

    Raises:
        CacheFileError: the file cannot be written.
        ManifestError: a picture in the manifest is damaged.
        BudgetError: no step of the codec keeps the size that the file may have.
    """
    clock = Clock(family.device)
    if is_searched(planned.header) and planned.header.codec.name != "plain":
        return _prefill_searching(planned, family, path, clock, progress)
    prefix = allocate(planned, family)
    with CacheWriter(path, planned.header, planned.tables) as writer, WriteBehind() as behind:
        of_file = file_blocks(planned, family, prefix, writer, behind)
        bounds = _run(planned, family, prefix, of_file, behind, clock, progress)
        bounds.write(writer)
        fidelity = None
        if planned.header.codec.name != "plain":
            answers = _answers(planned, family, prefix)
            del prefix, of_file  # the memory holds the rows of one prefix at a time
            fidelity = _compare(answers, writer, family)
            clock.mark("measure")
        return _finish(planned, writer, clock, fidelity)


def _prefill_searching(
    planned: CachePlan,
    family: Family,
    path: Path,
    clock: Clock,
    progress: Callable[[int], object],
) -> Seconds:
    """As `prefill`, with the one of `SEARCHED_STEPS` that keeps an error or a size.

    An error need not fall with the step, so each is tried, the coarsest first. If none keeps it,
    the rows are written as they are. Within a size it is the finest.
    """
    prefix, codec = allocate(planned, family), planned.header.codec
    kept = KeptBlocks(planned, family, prefix.raw_dtype)
    with WriteBehind() as behind:
        bounds = _run(planned, family, prefix, kept, behind, clock, progress)
    answers = _answers(planned, family, prefix)
    max_kl, budget_bytes = planned.max_kl, planned.budget_bytes
    for step in sorted(SEARCHED_STEPS, reverse=budget_bytes is None):
        tried = planned.with_codec(replace(codec, step=step))
        with CacheWriter(path, tried.header, tried.tables) as writer, WriteBehind() as behind:
            kept.write(KltBlocks(tried, family, prefix.raw_dtype, writer, behind), behind)
            bounds.write(writer)
            with writer.read_back() as cache:
                size_bytes = cache.size_bytes
            clock.mark("write")
            if budget_bytes is not None and size_bytes > budget_bytes:
                continue
            fidelity = _compare(answers, writer, family)
            clock.mark("measure")
            if max_kl is None or fidelity.kl <= max_kl:
                return _finish(tried, writer, clock, fidelity)
    if budget_bytes is not None:
        raise BudgetError(
            f"{planned.header.video.name}: at the coarsest step its file has {size_bytes} bytes, "
            f"expected at most {budget_bytes}, what --budget-bytes-per-minute leaves it; "
            "--budget-tokens, a lower --fps and batch calibrate make it smaller"
        )
    exact = planned.with_codec(plain_codec(planned.header.shape))
    with CacheWriter(path, exact.header, exact.tables) as writer, WriteBehind() as behind:
        PlainBlocks(exact, prefix, writer, behind).write_until(exact.tables.token_count)
        behind.finish()
        bounds.write(writer)
        return _finish(exact, writer, clock, None)


def _run(
    planned: CachePlan,
    family: Family,
    prefix: Prefix,
    of_file: FileBlocks,
    behind: WriteBehind,
    clock: Clock,
    progress: Callable[[int], object],
) -> "_Bounds":
    """Fill a prefix, and what takes its blocks for a file; the bounds of its keys."""
    bounds = _Bounds(planned, family, behind)
    with closing(compute(planned, family, prefix, clock)) as blocks:
        for computed in blocks:
            bounds.add(computed)
            keep(computed.cache, planned.plan.tier[computed.block])
            clock.mark("quantise")
            of_file.add(computed)
            clock.mark("write")
            progress(computed.samples)
        of_file.finish()
    behind.finish()
    clock.mark("write")
    return bounds


def _answers(planned: CachePlan, family: Family, prefix: Prefix) -> NeutralAnswers:
    return NeutralAnswers(prefix, family, next_position=planned.plan.next_position)


def _compare(answers: NeutralAnswers, writer: CacheWriter, family: Family) -> Fidelity:
    """What the file that is being written makes of answers."""
    with writer.read_back() as cache:
        return answers.compare(Prefix.load(cache, family.layer_devices, family.rotation))


def _finish(
    planned: CachePlan, writer: CacheWriter, clock: Clock, fidelity: Fidelity | None
) -> Seconds:
    seconds = clock.seconds()
    run = seconds.forward + seconds.quantise + seconds.write + seconds.measure
    started = time.perf_counter()
    writer.finish([planned.manifest.analyze_seconds, seconds.encode, run], fidelity)
    seconds.write += time.perf_counter() - started
    return seconds


class _Bounds:
    """The bounds of exact keys, of a file that has an index."""

    def __init__(self, planned: CachePlan, family: Family, behind: WriteBehind) -> None:
        self._layers = planned.header.shape.index_layers
        self._positions = planned.plan.positions
        self._family, self._behind = family, behind
        self._bounds = SampleBounds(planned.header.shape, planned.tables)

    def add(self, computed: Computed) -> None:
        samples = self._bounds.samples(computed.block)
        if not self._layers or not len(samples):
            return
        rotation = self._family.rotation(torch.from_numpy(self._positions[computed.block]))
        keys = [
            computed.cache.suffix(layer)[0][0].to(rotation.cos.device) for layer in self._layers
        ]
        unrotated = unrotate(torch.cat(keys).transpose(0, 1), rotation)  # layers beside heads
        by_layer = unrotated.view(len(unrotated), len(keys), *keys[0].shape[::2])
        found = self._bounds.of(computed.block, by_layer)
        self._behind.put([found], partial(self._put, samples))

    def _put(self, samples: NDArray[np.int64], bounds: list[Tensor]) -> None:
        self._bounds.put(samples, range(len(self._layers)), bounds[0])

    def write(self, writer: CacheWriter) -> None:
        if self._layers:
            writer.write_index(self._bounds.bounds())
