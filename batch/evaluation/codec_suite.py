"""`--suite codec`: every quality of the file before the judges that are asked for."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from batch.evaluation.codec_films import (
    CALIBRATION_FILMS,
    CALIBRATION_SEED,
    SEEDS,
    calibrate,
    demo_sets,
    film_setups,
    films_of,
    judge_films,
    seeing_sets,
)
from batch.evaluation.codec_prose import prose_rows, prose_schemes
from batch.evaluation.codec_rows import CodecRow
from batch.evaluation.data import QuestionSet
from batch.evaluation.judges.packages import SMOLLM2, find
from batch.evaluation.judges.prose import LanguageModel
from batch.evaluation.judges.prose_texts import HAYSTACKS
from batch.evaluation.judges.seeing_films import find_judge
from batch.models import open_model
from batch.settings import ModelSettings
from cachefmt.calibration_files import calibration_path

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], object]]]
"""Of what, how much and in which unit; gives a function that is told how much more is done."""


@dataclass(frozen=True, kw_only=True)
class CodecSuite:
    """What is judged, and by how much of it.

    - videos: of each set of films, at most; backgrounds: clips that "seeing" sees films over too.
    - context_tokens, contexts: of "prose".
    - model: how models of films run; which ones, the judges decide.
    """

    videos: int
    backgrounds: Path | None
    context_tokens: int
    contexts: int
    model: ModelSettings

    def rows(self, judges: Sequence[str], progress: Progress) -> list[CodecRow]:
        """A row for each judge and way to store.

        Raises:
            BatchError: what a judge needs is not there; nothing has been run then.
        """
        prose = find(SMOLLM2) if "prose" in judges else None
        seeing = find_judge() if "seeing" in judges else None
        rows: list[CodecRow] = []
        if "demo" in judges:
            rows += self._films("demo", None, progress)
        if prose is not None:
            schemes = prose_schemes()
            steps = (self.contexts + HAYSTACKS) * len(schemes)
            with progress("prose", steps, "stored contexts") as report:
                model = LanguageModel(prose)
                rows += prose_rows(model, schemes, self.context_tokens, self.contexts, report)
        if seeing is not None:
            rows += self._films("seeing", seeing, progress)
        return rows

    def _films(self, judge: str, checkpoint: Path | None, progress: Progress) -> list[CodecRow]:
        model = open_model(replace(self.model, name=str(checkpoint or judge)))

        def draw(videos: int, seeds: Sequence[int]) -> list[QuestionSet]:
            if checkpoint is None:
                return demo_sets(folder, videos, seeds)
            return seeing_sets(checkpoint, folder, videos, self.backgrounds, seeds)

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            calibration = calibration_path(folder, judge)
            films = CALIBRATION_FILMS[judge]
            calibrate(model, films_of(draw(films, (CALIBRATION_SEED,))), calibration)
            sets = draw(self.videos, SEEDS)
            with progress(judge, len(films_of(sets)), "films") as report:
                return judge_films(judge, model, sets, film_setups(), calibration, report=report)
