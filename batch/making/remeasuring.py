"""The error of a cache measured again: its rows against those that its model computes anew.

A cache does not hold the rows that it was made of. The manifest does hold the pictures, so the
model can make them once more, which takes as long as the first time; the video is not needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.kv import Prefix
from batch.making.cache_plan import CachePlan
from batch.making.computing import allocate, compute, keep
from batch.making.fidelity import NeutralAnswers
from batch.making.maker import CacheMaker
from batch.models import Family, OpenModel
from batch.settings import CacheSettings
from cachefmt import CacheFile, Fidelity, Header


def measure_again(
    segments: Sequence[CacheFile], manifest: Manifest, model: OpenModel
) -> Iterator[Fidelity]:
    """What `Fidelity` of a header says, of each segment as this machine finds it.

    Args:
        manifest: as of `find_manifest`.
        model: the one that wrote the cache.

    Raises:
        BatchError: a cache of this manifest would have other tokens today.
        CacheFileError: rows are damaged.
    """
    maker = CacheMaker(model, _settings(segments[0].header))
    video = maker.plan(manifest)
    family = model.load()
    for cache in segments:
        number = cache.header.segment.number
        if number >= len(video.spans):
            raise _planned_otherwise(cache)
        planned = video.segment(number)
        for name, column in vars(planned.tables).items():
            if not name.startswith("_") and not np.array_equal(column, getattr(cache.tables, name)):
                raise _planned_otherwise(cache)
        answers = _exact_answers(planned, family)
        yield answers.compare(Prefix.load(cache, family.layer_devices, family.rotation))


def _settings(header: Header) -> CacheSettings:
    """Those that a cache was made with, as far as they decide its rows."""
    chosen = header.policy.parameters
    missing = {"reuse", "timestamps", "block_samples"} - chosen.keys()
    if missing:
        raise BatchError(
            f"{header.video.name}: the policy {header.policy.name} of its cache says nothing of "
            f"{', '.join(sorted(missing))}; only caches of batch prefill and batch index can be "
            "measured again"
        )
    return CacheSettings(
        positions=header.layout.positions,  # type: ignore[arg-type]  # one of the two
        reuse=chosen["reuse"],  # type: ignore[arg-type]  # one of its words
        timestamps=bool(chosen["timestamps"]),
        block_samples=int(chosen["block_samples"]),
        quality="lossless",
    )


def _exact_answers(planned: CachePlan, family: Family) -> NeutralAnswers:
    prefix = allocate(planned, family)
    with closing(compute(planned, family, prefix)) as blocks:
        for computed in blocks:
            keep(computed.cache, planned.plan.tier[computed.block])
    return NeutralAnswers(prefix, family, next_position=planned.plan.next_position)


def _planned_otherwise(cache: CacheFile) -> BatchError:
    return BatchError(
        f"{cache.path}: of its manifest this version would store other tokens than "
        f"{cache.header.tool} did, so there is nothing to compare; batch prefill --force writes "
        "it again"
    )
