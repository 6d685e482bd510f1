"""`--suite reuse`: what is computed of a film, and what its answers keep, by way to reuse.

Each way is the default profile with another `Reuse`, written as `batch prefill` does at quality
lossless; `none` computes and stores every slot. Rows come as soon as the films of a kind are done.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.evaluation.chosen_judges import SEEDS, FilmJudge, Judges, films_of
from batch.evaluation.codec_rows import by_world
from batch.evaluation.data import QuestionSet
from batch.evaluation.methods import DEFAULT
from batch.evaluation.methods.sali_cache import SaliCache
from batch.evaluation.running import Progress, run_methods
from batch.evaluation.runs import UNCOMPRESSED, Entry, Run
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.summary import by_label, intervals, measure
from batch.evaluation.tables import Table, with_interval
from batch.models import open_model
from batch.video import Sampling

ALL = "all"
"""What the rows over all films of a judge are called."""
_PARTS = ("analyse", "encode", "prefill", "quantise")
"""Of the time of a prefill: all but decoding, which every way needs, and the file."""


def ways() -> dict[str, SaliCache]:
    """The ways to reuse, by what their rows are called."""
    temporal = replace(DEFAULT.temporal, reference="cells")
    found = {
        "none": replace(
            DEFAULT, temporal=TEMPORAL_PROFILES["none"], thresholds=PROFILES["none"], reuse="none"
        ),
        "samples": DEFAULT,
        "cells": replace(DEFAULT, temporal=temporal, reuse="cells"),
    }
    return {name: replace(method, profile=name) for name, method in found.items()}


@dataclass(frozen=True, kw_only=True)
class ReuseRow:
    """A way to reuse on the films of a kind, or on `ALL` of a judge.

    - n: questions. computed_share: tokens that entered the language model / slots.
    - retained: right answers, divided by those of the uncompressed model; agreement, kl: against
      it; of answers and of their first token.
    - prefill_time: of analysis, vision tower, language model and tiers, divided by that of
      transformers' own vision tower and language model over all slots.
    """

    judge: str
    films: str
    reuse: str
    n: int
    computed_share: float
    retained: float | None
    agreement: float | None
    kl: float | None
    prefill_time: float
    intervals: dict[str, list[float]]
    """By bootstrap over worlds, each of which several films may show."""


def judge_reuse(judges: Judges, progress: Progress) -> Iterator[ReuseRow]:
    """A row for each judge, kind of film and way to reuse; then for all films of the judge.

    Raises:
        BatchError: what a judge needs is not there; nothing has been run then.
    """
    entries = [Entry(method=method) for method in ways().values()]
    for judge in judges.find():
        if not isinstance(judge, FilmJudge):
            raise ValueError(f"{judge.name}: it sees no films")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            family = open_model(judge.model).load()
            sets = judge.sets(folder, judges.videos, SEEDS)
            prepare = partial(PreparedVideo, family=family, sampling=Sampling())
            run = partial(run_methods, prepare, entries=entries, folder=folder)
            done: list[Run] = []
            with progress(judge.name, len(films_of(sets)), "films") as report:
                for kind, of_kind in groupby(sorted(sets, key=_name), key=_name):
                    runs = list(run(list(of_kind), report=report))
                    yield from reuse_rows(judge.name, kind, runs)
                    done += runs
            yield from reuse_rows(judge.name, ALL, done)


def _name(data: QuestionSet) -> str:
    return data.name


def reuse_rows(judge: str, films: str, runs: Sequence[Run]) -> list[ReuseRow]:
    """A row a way of some films, which the uncompressed model saw too."""
    found = by_label(runs)
    whole_s = sum(map(_seconds, found.pop(UNCOMPRESSED)))
    return [_row(judge, films, own, whole_s) for own in found.values()]


def _row(judge: str, films: str, runs: list[Run], whole_s: float) -> ReuseRow:
    figures = measure(by_world(runs))
    named = {name: figures[figure] for name, figure in _FIGURES.items()}
    return ReuseRow(
        judge=judge,
        films=films,
        reuse=runs[0].label.profile or "",
        n=sum(len(run.answers) for run in runs),
        computed_share=sum(run.computed or 0 for run in runs) / sum(run.slots for run in runs),
        prefill_time=sum(_seconds(run) for run in runs) / whole_s,
        intervals=intervals(named),
        **{name: figure.value for name, figure in named.items()},
    )


_FIGURES = {"retained": "retained", "agreement": "agreement_em", "kl": "kl"}


def _seconds(run: Run) -> float:
    return sum((run.parts or {})[part] for part in _PARTS)


def reuse_table(rows: Sequence[ReuseRow]) -> Table:
    """The rows as a table for people."""
    return Table(
        title="Reuse",
        note=(
            "computed: tokens that entered the language model against all slots. retained: right "
            "answers against those of the uncompressed model, 95 % interval by bootstrap over "
            "worlds. prefill: analysis and prefill against transformers' own over all slots."
        ),
        head=["judge", "films", "reuse", "n", "computed", "retained", "agreement", "KL", "prefill"],
        rows=[_cells(row) for row in rows],
        texts=3,
    )


def _cells(row: ReuseRow) -> list[str]:
    retained = with_interval(row.retained, row.intervals.get("retained"))
    return [
        *(row.judge, row.films, row.reuse, str(row.n), f"{row.computed_share:.3f}", retained),
        "" if row.agreement is None else f"{row.agreement:.3f}",
        "" if row.kl is None else f"{row.kl:.4f}",
        f"{row.prefill_time:.2f}",
    ]
