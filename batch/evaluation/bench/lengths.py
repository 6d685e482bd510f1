"""Peak memory of prefill by the length of the video."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.evaluation.bench.measuring import Found, peak_allocated
from batch.evaluation.bench.subject import Subject
from batch.kv.attention import CHUNK_NUMBERS
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache

BUFFER_BYTES = 2 * 4 * CHUNK_NUMBERS
"""Keys and values that are decoded at a time, in float32; a short video does not fill them."""


def measure_lengths(subject: Subject) -> Found:
    """Peak beyond the bytes that are stored, of the longest video against the shortest.

    The videos are the first film several times over, so that all have its mix of tiers. The
    shortest is charged for full buffers, so 1 or less says: nothing grows but what is stored.
    """
    film, family = subject.films[0], subject.family
    family.attend_over_tiers()
    manifest = subject.analyze(film)
    # What a block takes does not depend on what positions mean to the model.
    family.config.get_text_config(decoder=True).max_position_embeddings = 1 << 20
    path = film.path.with_name("repeated.safetensors")
    samples, beyond, stored = [], [], []
    for times in subject.size.lengths:
        work = plan_cache(_repeat(manifest, times), family, dtype=subject.size.dtype)
        peak = peak_allocated(lambda: prefill(work, family, path), subject.size.device)  # noqa: B023  # called at once
        samples.append(len(work.manifest.frame))
        stored.append(work.size_bytes)
        beyond.append(peak - work.size_bytes)
    path.unlink()
    figures = {
        "buffer_bytes": BUFFER_BYTES,
        "samples": samples,
        "stored_bytes": stored,
        "beyond_stored_bytes": beyond,
    }
    return {"prefill_memory_growth": beyond[-1] / (beyond[0] + BUFFER_BYTES)}, figures


def _repeat(manifest: Manifest, times: int) -> Manifest:
    """The manifest of a video that runs so often in a row, without a change where it starts."""
    samples, signals = len(manifest.frame), manifest.signals
    run = np.repeat(np.arange(times), samples)

    def tile(cells: NDArray[Any]) -> NDArray[Any]:
        return np.tile(cells, (times, 1))

    return replace(
        manifest,
        frame=np.tile(manifest.frame, times) + run * (manifest.frame[-1] + 1),
        pts_s=np.tile(manifest.pts_s, times) + run * manifest.header.decoded_s,
        last_pts_s=np.tile(manifest.last_pts_s, times) + run * manifest.header.decoded_s,
        signals=replace(
            signals,
            flow_px=tile(signals.flow_px),
            difference=tile(signals.difference),
            saliency=tile(signals.saliency),
            static=tile(signals.static),
            redundancy=np.tile(signals.redundancy, times),
            source=(np.tile(signals.source, times) + run * samples).astype(np.int32),
        ),
        tier=tile(manifest.tier),
        pictures=list(manifest.pictures) * times,
    )
