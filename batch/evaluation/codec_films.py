"""Judges "demo" and "seeing" of `--suite codec`: real files of films, written, read and asked."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.answering import PrefixAnswerer
from batch.evaluation.codec_rows import CALIBRATION_SHARE, CodecRow, Loads, Setup, film_rows
from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.measuring import timed
from batch.evaluation.running import Report, run_all
from batch.evaluation.runs import UNCOMPRESSED, Label, Maker, Run, run_video
from batch.evaluation.storing import PreparedVideo, Stored, is_kv
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.calibrating import Calibrator
from batch.making.codec import STEPS
from batch.models import OpenModel
from batch.models.checkpoint import dtype_name
from batch.settings import CacheSettings, Quality
from batch.video import Sampling
from cachefmt import CacheFile
from cachefmt.calibration import Calibration

SEEDS = (21, 22)
"""Of the films that are judged."""
CALIBRATION_SEED = 31
"""Of the films that calibrations are made of."""
CALIBRATION_FILMS = {"demo": 1, "seeing": 9}
"""Of each set."""
_LOSSLESS: tuple[Quality, bool] = ("lossless", False)
ROWS = ("none", "default")
"""Profiles: every slot, and what is stored by default."""


def film_setups() -> list[Setup]:
    """As it is, and every quality with either basis; of every slot and of what is stored anyway."""
    encoded = [(quality, calibrated) for calibrated in (False, True) for quality in STEPS]
    return [
        Setup(quality=quality, calibrated=calibrated, rows=rows)
        for rows in ROWS
        for quality, calibrated in [_LOSSLESS, *encoded]
    ]


def calibrate(model: OpenModel, films: Iterable[Path], path: Path) -> None:
    """Write a calibration as `batch calibrate` does."""
    calibrator = Calibrator(model, CacheSettings())
    for film in films:
        calibrator.add(
            analyze_video(film, model.family.geometry, AnalysisSettings.of_profile("default"))
        )
    calibrator.publish(path)


def judge_films(
    judge: str,
    model: OpenModel,
    sets: Sequence[QuestionSet],
    setups: Sequence[Setup],
    calibration: Path,
    *,
    report: Report,
) -> list[CodecRow]:
    """A row a setup.

    Args:
        calibration: of the model; the one cache file that exists at a time lies beside it.
    """
    family = model.load()
    loads = {setup: Loads() for setup in setups}
    shared = Calibration.open(calibration)

    def run(data: str, film: Path, questions: list[Question], _: list[Label]) -> Iterator[Run]:
        video = PreparedVideo(film, family, Sampling())
        makers = {
            setup.label: Maker(partial(_store, setup, video, shared, found), "bits", True)
            for setup, found in loads.items()
        }
        return run_video(data, video, questions, makers)

    labels = [UNCOMPRESSED, *(setup.label for setup in setups)]
    runs = run_all(sets, dict(zip(labels, labels, strict=True)), run, report=report)
    return film_rows(judge, runs, loads)


def _store(setup: Setup, video: PreparedVideo, calibration: Calibration, loads: Loads) -> Stored:
    """Write a film's cache as `batch prefill` does, and read it back."""
    family, path = video.family, calibration.path.with_name("judged.safetensors")
    plan = plan_cache(
        video.manifest(TEMPORAL_PROFILES[setup.rows], PROFILES[setup.rows]),
        family,
        CacheSettings(quality=setup.quality),
        dtype=dtype_name(family.model.dtype),
        calibration=calibration if setup.calibrated else None,
    )
    prefill(plan, family, path)
    with CacheFile.open(path) as cache:
        load = partial(Prefix.load, cache, family.layer_devices, family.rotation)
        seconds, prefix = timed(load)
        shape, fidelity = cache.header.shape, cache.header.fidelity
        kv_bytes = sum(map(cache.tensor_bytes, filter(is_kv, cache.names)))
    loads.seconds.append(seconds)
    loads.row_bytes.append(2 * shape.token_count * shape.layers * shape.layer_numbers)
    if fidelity is not None:
        loads.neutral_kl.append(fidelity.kl)
    share = calibration.size_bytes // CALIBRATION_SHARE if setup.calibrated else 0
    return Stored(
        answerer=PrefixAnswerer(
            prefix, family, next_position=plan.plan.next_position, name=video.path.name
        ),
        size_bytes=path.stat().st_size + share,
        kv_bytes=kv_bytes,
        tokens=dict(shape.tokens),
        seconds=video.seconds(),
    )
