"""What a process with a model does: say what the model is, and write caches one by one."""

import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from batch.analysis.manifest import Manifest
from batch.archive.identity import ModelFacts
from batch.archive.tasks import Calibrate, Describe, Prefill, Staged
from batch.kv.rotation import why_fixed
from batch.making.calibrating import ENOUGH_TOKENS, Calibrator, count_in, most_tokens
from batch.making.destination import Destination
from batch.making.maker import CacheMaker, MadeCache
from batch.models import open_model
from batch.version import __version__
from cachefmt import CacheFile
from cachefmt.calibration_files import calibration_path
from jobs.locks import held
from jobs.workers import Progress


def describe(task: Describe) -> ModelFacts:
    """Look at a model without loading its weights."""
    cache = task.settings.cache
    # Who only analyses may do so without the device that prefills.
    device = task.device if task.weights else "cpu"
    model = open_model(replace(task.settings.model, device=device))
    if cache.timestamps:
        model.family.use_timestamps()
    checkpoint = model.family.checkpoint
    return ModelFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        geometry=model.family.geometry,
        config_sha256=checkpoint.config_sha256,
        processor_sha256=checkpoint.processor_sha256,
        chat_template_sha256=checkpoint.chat_template_sha256,
        weights_sha256=checkpoint.weights_sha256 if task.weights else None,
        dtype=model.dtype if task.weights else None,
    )


def calibrate(maker: CacheMaker, task: Calibrate, progress: Progress) -> None:
    """Make a calibration, unless one is there, or what there is to make it of is too little.

    Of several processes that are to make it, on any machines, one does; the others wait for it.
    """
    is_fixed = why_fixed(maker.model.family.config) is not None
    if is_fixed or most_tokens(task.manifests) < ENOUGH_TOKENS:
        return
    with held(task.folder / "runs", ["calibration"], lambda text: None, progress):
        if maker.use_calibration_in(task.folder):
            return
        calibrator = Calibrator(maker.model, maker.settings)
        count_in(
            calibrator,
            task.manifests,
            report=lambda samples: progress(),
            failed=lambda manifest, error: None,  # it will fail again when it is prefilled
        )
        if calibrator.tokens < ENOUGH_TOKENS:
            return
        checkpoint = maker.model.family.checkpoint
        path = calibration_path(task.folder, checkpoint.name)
        if path.exists():  # of another model of this name
            name = f"{checkpoint.name}-{checkpoint.weights_sha256[:8]}"
            path = calibration_path(task.folder, name)
        task.allowance.check(calibrator.most_bytes)
        calibrator.publish(path, task.staged)


def prefill(maker: CacheMaker, task: Prefill, progress: Progress) -> Staged:
    """Write a cache; a file stays in its temporary place, segments go to their folder."""
    began_s = time.monotonic()
    maker.use_calibration_in(task.calibrations)
    destination = Destination(
        file=task.target, folder=task.segments, existing="repair", staged=task.staged
    )
    made = maker.make(
        Manifest.read(task.manifest),
        destination,
        room=task.allowance,
        report=lambda samples: progress(),
    )
    facts = _facts(made, destination)
    return Staged(facts=facts, began_s=began_s, ended_s=time.monotonic())


def _facts(made: MadeCache, destination: Destination) -> dict[str, Any]:
    video = made.video
    encode_s, prefill_s = 0.0, 0.0
    for number in range(len(video.headers)):
        path = destination.path(video, number)
        with CacheFile.open(path if video.is_cut else destination.staged or path) as cache:
            _, encode, prefill = cache.cost_seconds.tolist()
        encode_s, prefill_s = encode_s + encode, prefill_s + prefill
    return {
        "stored_samples": video.stored_samples,
        "slots": video.slots,
        "computed": video.computed,
        **{f"tokens_{tier.lower()}": count for tier, count in video.tokens.items()},
        "calibration": video.headers[0].codec.calibration,
        "block_samples": video.block_samples,
        "segments": len(video.headers),
        "cache_bytes": made.size_bytes,
        "fp16_kv_bytes": sum(header.fp16_kv_bytes for header in video.headers),
        **made.measured,
        "encode_seconds": encode_s,
        "prefill_seconds": prefill_s,
        "tool": __version__,
        "torch": version("torch"),  # torch.__version__ would be unpickled by importing torch
        "transformers": version("transformers"),
    }
