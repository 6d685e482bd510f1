"""A video's manifest, as one task of many."""

import time

from batch.archive.discovery import is_unchanged
from batch.archive.tasks import Analyze, Staged
from batch.errors import VideoError
from batch.making.manifests import write_manifest
from jobs.workers import Progress


def analyze(task: Analyze, progress: Progress) -> Staged | None:
    """Write a manifest to a temporary place; None if the file is not the one looked at.

    Raises:
        VideoError: the video cannot be decoded.
        NoSpaceError: the manifest has no room.
    """
    began = time.monotonic()
    try:
        manifest = write_manifest(
            task.row.info,
            task.staged,
            task.rule,
            task.settings,
            room=task.allowance,
            progress=progress,
        )
    except VideoError:
        if is_unchanged(task.row):
            raise
        return None
    if not is_unchanged(task.row):
        task.staged.unlink()
        return None
    facts = {
        "samples": len(manifest.frame),
        "stored_samples": int(manifest.kept.sum()),
        "decoded_s": manifest.header.decoded_s,
        "manifest_bytes": task.staged.stat().st_size,
        "analyze_seconds": manifest.analyze_seconds,
        "warning": manifest.header.warning,
    }
    return Staged(facts=facts, began_s=began, ended_s=time.monotonic())
