"""Each method against the uncompressed model, question by question.

    python -m batch.evaluation.paired FOLDER/results/answers.parquet

FOLDER is what `batch evaluate --out` wrote. Prints an object a judge and method, as JSON Lines.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pyarrow.parquet as pq

from batch.evaluation.summary import NEXT_TOKENS

CONFIDENCE = 0.95
MARGIN = 0.01
"""Share of all questions that may be lost where 99 % is claimed."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_LABEL = ("judge", "method", "profile", "budget")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What became of the same questions with a method and without compression.

    - both_right, neither_right, only_method, only_uncompressed: counts of questions. The last two
      are discordant, and all that a difference can come from.
    - difference: of the shares of right answers, method less uncompressed; low, high: its
      interval. Questions about one video are not independent: it is of sums over videos.
    - questions_needed: for an interval that reaches MARGIN to either side, at this share of
      discordant questions, if each had a video of its own.
    """

    n: int
    videos: int
    both_right: int
    neither_right: int
    only_method: int
    only_uncompressed: int
    difference: float
    low: float
    high: float
    questions_needed: int


def questions_needed(discordant: float, margin: float = MARGIN) -> int:
    """Questions after which the interval of a difference of 0 reaches `margin` to either side.

    Source: the Wald interval of a difference of paired proportions (Agresti, Categorical Data
    Analysis, 3rd edition, section 11.1): variance (discordant - difference^2) / n.

    Args:
        discordant: share of questions that just one of the two answers right, 0..1.
    """
    return math.ceil(_Z**2 * discordant / margin**2)


def compare_pairs(rows: Iterable[Mapping[str, Any]]) -> Pairs:
    """Compare the answers of one method, rows of `answers.parquet`."""
    counts: dict[tuple[bool, bool], int] = defaultdict(int)
    gained: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        pair = (row["right"], row["uncompressed_right"])
        counts[pair] += 1
        gained[row["data"], row["video"]].append(pair[0] - pair[1])
    n, videos = sum(counts.values()), len(gained)
    difference = (counts[True, False] - counts[False, True]) / n
    # Cluster-robust: videos, not questions, are the draws; as in the ratio of two sums over them.
    squares = sum((sum(own) - difference * len(own)) ** 2 for own in gained.values())
    error = math.sqrt(squares * videos / (videos - 1)) / n if videos > 1 else math.inf
    return Pairs(
        n=n,
        videos=videos,
        both_right=counts[True, True],
        neither_right=counts[False, False],
        only_method=counts[True, False],
        only_uncompressed=counts[False, True],
        difference=difference,
        low=max(-1.0, difference - _Z * error),
        high=min(1.0, difference + _Z * error),
        questions_needed=questions_needed((counts[True, False] + counts[False, True]) / n),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path, help="answers.parquet of batch evaluate --out")
    rows = pq.read_table(parser.parse_args().answers).to_pylist()
    by_method: dict[tuple[str | None, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["data"] != NEXT_TOKENS:  # no questions
            by_method[tuple(row[name] for name in _LABEL)].append(row)
    for label, own in by_method.items():
        line = {**dict(zip(_LABEL, label, strict=True)), **asdict(compare_pairs(own))}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
