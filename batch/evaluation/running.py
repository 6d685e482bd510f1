"""What is run over question sets, film by film; what was run before is taken as it was kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.kept_runs import KeptRuns, What
from batch.evaluation.runs import NO_VIDEO, UNCOMPRESSED, Entry, Label, Maker, Run, run_video
from batch.evaluation.storing import PreparedVideo, store, store_uncompressed

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], object]]]
"""Of what, how much and in which unit; gives a function that is told how much more is done."""
Report = Callable[[int], object]
"""Is told how many more films or texts are done."""

W = TypeVar("W", bound=What)


def run_all(
    sets: Sequence[QuestionSet],
    wanted: Mapping[Label, W],
    run: Callable[[str, Path, list[Question], list[W]], Iterator[Run]],
    *,
    report: Report,
    kept: KeptRuns | None = None,
) -> Iterator[Run]:
    """Run all that is wanted over every film or text, on the same questions.

    Args:
        run: runs what of it is missing over one of a set; it may run the uncompressed model again.
        kept: runs that need not be made again, and where new ones go.
    """
    for data in sets:
        for film, asked in groupby(data.questions, key=lambda question: question.video):
            questions = list(asked)
            runs = {} if kept is None else kept.find(film, questions, wanted)
            missing = [what for label, what in wanted.items() if label not in runs]
            if missing:
                for made in run(data.name, film, questions, missing):
                    runs[made.label] = made
                    if kept is not None:
                        kept.write(kept.path(film, questions, wanted[made.label]), made)
            yield from (runs[label] for label in wanted)
            report(1)


def run_methods(
    prepare: Callable[[Path], PreparedVideo],
    sets: Sequence[QuestionSet],
    entries: Sequence[Entry],
    *,
    folder: Path,
    report: Report,
    has_control: bool = False,
    kept: KeptRuns | None = None,
) -> Iterator[Run]:
    """Run the uncompressed model and every method over every video.

    Args:
        prepare: opens a film before a loaded model.
        folder: for the one cache file that exists at a time.
        has_control: whether NO_VIDEO runs too.
        kept: as of `run_all`.
    """
    controls = [UNCOMPRESSED, NO_VIDEO] if has_control else [UNCOMPRESSED]
    wanted: dict[Label, Entry | Label] = {label: label for label in controls}
    wanted |= {entry.label: entry for entry in entries}

    def run(
        data: str, film: Path, questions: list[Question], missing: list[Entry | Label]
    ) -> Iterator[Run]:
        video = prepare(film)
        makers = dict(_maker(what, video, folder) for what in missing if what != UNCOMPRESSED)
        is_first = film == sets[0].questions[0].video
        return run_video(data, video, questions, makers, has_peak=is_first)

    return run_all(sets, wanted, run, report=report, kept=kept)


def _maker(what: Entry | Label, video: PreparedVideo, folder: Path) -> tuple[Label, Maker]:
    if isinstance(what, Label):
        return what, Maker(partial(store_uncompressed, video, is_blank=True), "whole", True)
    method = what.method
    run = partial(store, method, video, what.limit, folder)
    return what.label, Maker(run, method.kind, method.in_file)
