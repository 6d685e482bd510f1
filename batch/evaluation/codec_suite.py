"""`--suite codec`: every quality of the file before the judges that are asked for.

Of films real files are written, read and asked. Text goes through the same codec, but has no places
and no samples, so nothing is predicted, and no file is written.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.answering import PrefixAnswerer
from batch.evaluation.chosen_judges import SEEDS, FilmJudge, Judges, films_of
from batch.evaluation.codec_rows import (
    CALIBRATION_SHARE,
    CodecRow,
    Loads,
    Setup,
    codec_row,
    film_rows,
)
from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.judges.prose import ProseJudge
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.evaluation.measuring import timed
from batch.evaluation.running import Progress, Report, run_all
from batch.evaluation.runs import UNCOMPRESSED, Label, Maker, Run, run_video
from batch.evaluation.storing import PreparedVideo, Stored, kv_bytes_in
from batch.evaluation.summary import Figure, Row, tabulate
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.calibrating import Calibrator
from batch.making.codec import STEPS
from batch.models import OpenModel, open_model
from batch.models.checkpoint import dtype_name
from batch.settings import CacheSettings, Quality
from batch.video import Sampling
from cachefmt import CacheFile
from cachefmt.calibration import Calibration
from cachefmt.calibration_files import calibration_path
from cachefmt.tiers import Tier

CALIBRATION_SEED = 31
"""Of the films that calibrations are made of."""
CALIBRATION_FILMS = {"demo": 1, "seeing": 9}
"""Of each set."""
_LOSSLESS: tuple[Quality, bool] = ("lossless", False)
ROWS = ("none", "default")
"""Profiles: every slot, and what is stored by default."""


def judge_codecs(judges: Judges, progress: Progress) -> Iterator[CodecRow]:
    """A row for each judge and way to store.

    Raises:
        BatchError: what a judge needs is not there; nothing has been run then.
    """
    for judge in judges.find():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if isinstance(judge, FilmJudge):
                yield from _film_rows(judge, judges.videos, folder, progress)
                continue
            sets = judge.sets(folder)
            with progress(judge.name, len(films_of(sets)), "texts") as report:
                yield from prose_rows(judge, prose_schemes(), sets, report)


def _film_rows(judge: FilmJudge, videos: int, folder: Path, progress: Progress) -> list[CodecRow]:
    model, calibration = open_model(judge.model), calibration_path(folder, judge.name)
    few = judge.sets(folder, CALIBRATION_FILMS[judge.name], (CALIBRATION_SEED,))
    calibrate(model, films_of(few), calibration)
    sets = judge.sets(folder, videos, SEEDS)
    with progress(judge.name, len(films_of(sets)), "films") as report:
        return judge_films(judge.name, model, sets, film_setups(), calibration, report=report)


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
        seconds, answerer = timed(partial(PrefixAnswerer.of_cache, cache, family))
        shape, fidelity = cache.header.shape, cache.header.fidelity
        kv_bytes = kv_bytes_in(cache)
    loads.seconds.append(seconds)
    loads.row_bytes.append(2 * shape.token_count * shape.layers * shape.layer_numbers)
    if fidelity is not None:
        loads.neutral_kl.append(fidelity.kl)
    share = calibration.size_bytes // CALIBRATION_SHARE if setup.calibrated else 0
    return Stored(
        answerer=answerer,
        size_bytes=path.stat().st_size + share,
        kv_bytes=kv_bytes,
        tokens=dict(shape.tokens),
        seconds=video.seconds(),
    )


def prose_schemes() -> dict[Setup, Scheme]:
    """What stores text: tiers as they are, and every quality with either basis."""
    found: dict[Setup, Scheme] = {}
    for tier in (Tier.FP16, Tier.INT4):
        setup = Setup(quality="lossless", calibrated=False, rows=tier.name)
        found[setup] = Tiers(label=setup.label, shares={tier: 1.0})
    for kind in (Transform, CalibratedTransform):
        for quality, step in STEPS.items():
            setup = Setup(quality=quality, calibrated=kind.is_fitted, rows="FP16")
            found[setup] = kind(label=setup.label, step=step)
    return found


def prose_rows(
    judge: ProseJudge,
    schemes: Mapping[Setup, Scheme],
    sets: Sequence[QuestionSet],
    report: Report,
) -> list[CodecRow]:
    """A row a scheme, over the texts of `ProseJudge.sets`."""
    runs = judge.run_all(sets, list(schemes.values()), report=report)
    found = {row.label: row for row in tabulate(list(runs), judge.name)}
    return [
        _prose_row(setup, found[setup.label], judge.fitted(scheme))
        for setup, scheme in schemes.items()
    ]


def _prose_row(setup: Setup, row: Row, scheme: Scheme) -> CodecRow:
    calibration = scheme.calibration_bytes if isinstance(scheme, Transform) else 0
    share = 1 + calibration / CALIBRATION_SHARE / (row.figures["bytes"].value or 1)
    alone = row.figures["compression_kv"]
    whole = Figure(**{name: value and value / share for name, value in asdict(alone).items()})
    return codec_row(row.judge, setup, {**row.figures, "compression_fp16": whole}, row.questions)
