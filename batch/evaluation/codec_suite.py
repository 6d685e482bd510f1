"""`--suite codec`: every quality of the file before the judges that are asked for."""

import tempfile
from pathlib import Path

from batch.evaluation.chosen_judges import FilmJudge, Judges, films_of
from batch.evaluation.codec_films import (
    CALIBRATION_FILMS,
    CALIBRATION_SEED,
    SEEDS,
    calibrate,
    film_setups,
    judge_films,
)
from batch.evaluation.codec_prose import prose_rows, prose_schemes
from batch.evaluation.codec_rows import CodecRow
from batch.evaluation.running import Progress
from batch.models import open_model
from cachefmt.calibration_files import calibration_path


def judge_codecs(judges: Judges, progress: Progress) -> list[CodecRow]:
    """A row for each judge and way to store.

    Raises:
        BatchError: what a judge needs is not there; nothing has been run then.
    """
    rows: list[CodecRow] = []
    for judge in judges.find():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if isinstance(judge, FilmJudge):
                rows += _film_rows(judge, judges.videos, folder, progress)
                continue
            sets = judge.sets(folder)
            with progress(judge.name, len(films_of(sets)), "texts") as report:
                rows += prose_rows(judge, prose_schemes(), sets, report)
    return rows


def _film_rows(judge: FilmJudge, videos: int, folder: Path, progress: Progress) -> list[CodecRow]:
    model, calibration = open_model(judge.model), calibration_path(folder, judge.name)
    few = judge.sets(folder, CALIBRATION_FILMS[judge.name], (CALIBRATION_SEED,))
    calibrate(model, films_of(few), calibration)
    sets = judge.sets(folder, videos, SEEDS)
    with progress(judge.name, len(films_of(sets)), "films") as report:
        return judge_films(judge.name, model, sets, film_setups(), calibration, report=report)
