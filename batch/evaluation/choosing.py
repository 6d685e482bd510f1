"""Which methods enter a comparison, and on which questions, from what a person typed."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.data import QuestionSet, demo_set, read_set
from batch.evaluation.methods import ABLATIONS, METHODS
from batch.evaluation.runs import Entry
from batch.evaluation.worlds.backgrounds import Backgrounds, find_clips
from batch.evaluation.worlds.variants import VARIANTS
from batch.settings import Limit

SUITES = {"methods": METHODS, "ablations": ABLATIONS}


def choose_entries(
    suites: Sequence[str], names: Sequence[str], limits: Sequence[Limit]
) -> list[Entry]:
    """Each method as it is, if it knows how much to keep, and then within each budget.

    Args:
        suites: some of SUITES; ablations run as they are only.
        names: methods to take, all of them if there are none.
    """
    methods = [method for suite in suites for method in SUITES[suite]]
    chosen = [method for method in methods if not names or method.name in names]
    free = [Entry(method=method) for method in chosen if not method.needs_budget]
    within = [
        Entry(method=method, limit=limit)
        for limit in limits
        for method in METHODS
        if method in chosen and set(suites) != {"ablations"} and method.takes_budget
    ]
    return list(dict.fromkeys([*free, *within]))


def choose_sets(
    data: Sequence[str],
    folder: Path,
    *,
    videos: int,
    seed: int,
    backgrounds: Path | None = None,
) -> list[QuestionSet]:
    """Draw question sets, "demo:VARIANT" or "demo" for every variant, or read those of a path.

    Args:
        folder: where drawn films go.
        videos: how many of each set, at most.
        backgrounds: folder of clips to draw over.

    Raises:
        BatchError: there are clips, and nothing is drawn.
    """
    if backgrounds is not None and not any(name.partition(":")[0] == "demo" for name in data):
        raise BatchError("--backgrounds: no set of --data is drawn")
    clips = None if backgrounds is None else Backgrounds(find_clips(backgrounds))
    every = [f"demo:{variant}" for variant in VARIANTS]
    sets = []
    for name in [one for typed in data for one in (every if typed == "demo" else [typed])]:
        kind, _, variant = name.partition(":")
        if kind == "demo":
            sets.append(demo_set(variant, folder, videos=videos, seed=seed, backgrounds=clips))
        else:
            found = read_set(Path(name))
            by_video = groupby(found.questions, key=lambda question: question.video)
            first = [question for _, own in islice(by_video, videos) for question in own]
            sets.append(replace(found, questions=tuple(first)))
    return sets
