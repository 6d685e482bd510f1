"""A video's manifest, as one task of many."""

import time

from batch.analysis.analyze import analyze_probed
from batch.analysis.manifest import Manifest
from batch.analysis.pictures import ROWS_TOGETHER
from batch.archive.discovery import is_unchanged
from batch.archive.tasks import Analyze, Staged
from batch.errors import VideoError
from jobs.atomic import FULL
from jobs.errors import NoSpaceError
from jobs.workers import Progress

_ROOM_FOR_FOOTER = 1 << 14
"""Of a manifest's schema and header; measured: 7 kB."""
_ROOM_FOR_ROWS_TOGETHER = 1 << 12
"""Of what Parquet says of each row group; measured: 2 kB."""


def analyze(task: Analyze, progress: Progress) -> Staged | None:
    """Write a manifest to a temporary place; None if the file is not the one looked at.

    Args:
        progress: as of `analyze_probed`.

    Raises:
        VideoError: the video cannot be decoded.
        NoSpaceError: the manifest has no room.
    """
    began = time.monotonic()
    try:
        manifest = analyze_probed(
            task.row.info, task.settings, folder=task.staged.parent, progress=progress
        )
        if not is_unchanged(task.row):
            return None
        task.allowance.check(_most_bytes(manifest))
        manifest.write(task.staged)
    except VideoError:
        if is_unchanged(task.row):
            raise
        return None
    except OSError as error:
        if error.errno in FULL:
            raise NoSpaceError(f"{task.staged}: {error.strerror}") from error
        raise
    facts = {
        "samples": len(manifest.frame),
        "stored_samples": int(manifest.kept.sum()),
        "decoded_s": manifest.header.decoded_s,
        "manifest_bytes": task.staged.stat().st_size,
        "analyze_seconds": manifest.analyze_seconds,
        "warning": manifest.header.warning,
    }
    return Staged(facts=facts, began_s=began, ended_s=time.monotonic())


def _most_bytes(manifest: Manifest) -> int:
    """Size of the file if nothing could be compressed."""
    signals = manifest.signals
    arrays = (manifest.frame, manifest.pts_s, manifest.tier, signals.source, signals.redundancy)
    cells = (signals.flow_px, signals.difference, signals.saliency)
    groups = -(-len(manifest.frame) // ROWS_TOGETHER)
    footer = _ROOM_FOR_FOOTER + groups * _ROOM_FOR_ROWS_TOGETHER
    pictures = sum(len(png) for png in manifest.pictures if png is not None)
    return pictures + sum(array.nbytes for array in (*arrays, *cells)) + footer
