"""Which methods enter a comparison, and on which questions, from what a person typed."""

from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.budgets import Limit
from batch.evaluation.data import QuestionSet, demo_set, read_set
from batch.evaluation.methods import ABLATIONS, METHODS
from batch.evaluation.runs import Entry
from batch.evaluation.worlds.variants import VARIANTS

SUITES = {"methods": METHODS, "ablations": ABLATIONS}
DEFAULT_BYTES = "25%"
_DEMO = "demo:"


def choose_limits(tokens: Sequence[str], size_bytes: Sequence[str]) -> list[Limit]:
    """Budgets as typed; a quarter of the bytes if none is given.

    Raises:
        BatchError: one is neither a number nor a share.
    """
    if not tokens and not size_bytes:
        size_bytes = [DEFAULT_BYTES]
    return [
        *(Limit.parse(text, "tokens") for text in tokens),
        *(Limit.parse(text, "bytes") for text in size_bytes),
    ]


def choose_entries(
    suites: Sequence[str], names: Sequence[str], limits: Sequence[Limit]
) -> list[Entry]:
    """Each method as it is, if it knows how much to keep, and then within each budget.

    Args:
        suites: some of SUITES; ablations run as they are only.
        names: methods to take, all of them if there are none.

    Raises:
        BatchError: a name that no method has.
    """
    methods = [method for suite in suites for method in SUITES[suite]]
    known = list(dict.fromkeys(method.name for method in methods))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BatchError(f"--method: got {unknown[0]!r}, there are {', '.join(known)}")
    chosen = [method for method in methods if not names or method.name in names]
    free = [Entry(method=method) for method in chosen if not method.needs_budget]
    within = [
        Entry(method=method, limit=limit)
        for limit in limits
        for method in METHODS
        if method in chosen and "methods" in suites and method.takes_budget
    ]
    return list(dict.fromkeys([*free, *within]))


def choose_sets(data: Sequence[str], folder: Path, *, videos: int, seed: int) -> list[QuestionSet]:
    """Draw or read question sets.

    Args:
        data: "demo:VARIANT", "demo" for every variant, or a path.
        folder: where drawn films go.
        videos: how many of each set, at most.
        seed: of drawn films.

    Raises:
        BatchError: no such variant, or nothing that can be read.
    """
    every = [f"{_DEMO}{variant}" for variant in VARIANTS]
    names = [one for name in data for one in (every if name == "demo" else [name])]
    return [
        demo_set(name.removeprefix(_DEMO), folder, videos=videos, seed=seed)
        if name.startswith(_DEMO)
        else _first_videos(read_set(Path(name)), videos)
        for name in names
    ]


def _first_videos(data: QuestionSet, videos: int) -> QuestionSet:
    by_video = groupby(data.questions, key=lambda question: question.video)
    first = [question for _, own in islice(by_video, videos) for question in own]
    return QuestionSet(name=data.name, questions=tuple(first), absent=data.absent)
