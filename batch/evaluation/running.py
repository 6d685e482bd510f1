"""Methods run over question sets, film by film; what was run before is taken as it was kept."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from batch.analysis.neural import SaliencyNetwork
from batch.evaluation.data import QuestionSet
from batch.evaluation.kept_runs import KeptRuns
from batch.evaluation.runs import NO_VIDEO, UNCOMPRESSED, Entry, Label, Maker, Run, run_video
from batch.evaluation.storing import PreparedVideo, store, store_uncompressed
from batch.models import Family
from batch.video import Sampling


def run_methods(
    family: Family,
    sets: Sequence[QuestionSet],
    entries: Sequence[Entry],
    *,
    folder: Path,
    sampling: Sampling,
    saliency: SaliencyNetwork | None = None,
    report: Callable[[int], object],
    has_control: bool = False,
    kept: KeptRuns | None = None,
) -> Iterator[Run]:
    """Run the uncompressed model and every method over every video, on the same questions.

    Args:
        family: a loaded model.
        folder: for the one cache file that exists at a time.
        report: called with 1 after each video.
        has_control: whether NO_VIDEO runs too.
        kept: runs that need not be made again, and where new ones go.
    """
    wanted: dict[Label, Entry | Label] = {UNCOMPRESSED: UNCOMPRESSED}
    if has_control:
        wanted[NO_VIDEO] = NO_VIDEO
    wanted |= {entry.label: entry for entry in entries}
    for data in sets:
        for film, asked in groupby(data.questions, key=lambda question: question.video):
            questions = list(asked)
            runs = {} if kept is None else kept.find(film, questions, wanted)
            missing = [what for label, what in wanted.items() if label not in runs]
            if missing:
                video = PreparedVideo(film, family, sampling, saliency)
                makers = dict(
                    _maker(what, video, folder) for what in missing if what != UNCOMPRESSED
                )
                is_first = film == sets[0].questions[0].video
                for run in run_video(data.name, video, questions, makers, has_peak=is_first):
                    runs[run.label] = run
                    if kept is not None:
                        kept.write(kept.path(film, questions, wanted[run.label]), run)
            yield from (runs[label] for label in wanted)
            report(1)


def _maker(what: Entry | Label, video: PreparedVideo, folder: Path) -> tuple[Label, Maker]:
    if isinstance(what, Label):
        return what, Maker(partial(store_uncompressed, video, is_blank=True), "whole", True)
    method = what.method
    run = partial(store, method, video, what.limit, folder)
    return what.label, Maker(run, method.kind, method.in_file)
