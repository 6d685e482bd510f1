"""The judges that suites ask: models, and the films or texts that they are asked about."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from batch.evaluation.choosing import choose_sets
from batch.evaluation.data import QuestionSet
from batch.evaluation.judges.packages import SMOLLM2, find
from batch.evaluation.judges.prose import LanguageModel, ProseJudge
from batch.evaluation.judges.seeing_films import find_judge, judge_sets
from batch.settings import ModelSettings

SEEDS = (21, 22)
"""Of the films that the suites codec and reuse ask about."""


@dataclass(frozen=True, kw_only=True)
class FilmJudge:
    """A model and the films that it is asked about.

    - name: as rows call it. draw: as of `judge_sets` behind the judge.
    - has_control: whether it is asked without the film too.
    """

    name: str
    model: ModelSettings
    draw: Callable[..., list[QuestionSet]]
    has_control: bool = False

    def sets(self, folder: Path, videos: int, seeds: Iterable[int]) -> list[QuestionSet]:
        """At most so many films of each set and seed; those that are drawn go into a folder."""
        return [one for seed in seeds for one in self.draw(folder, videos=videos, seed=seed)]


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Which judges are asked, and about how much.

    - names: of "demo", "prose" and "seeing".
    - model: of "demo", and how all models of films run. data: films of "demo".
    - videos: of each set, at most. backgrounds: clips to draw over: for "seeing" if it is asked,
      beside films without; else for "demo".
    - context_tokens, contexts: of "prose".
    """

    names: Sequence[str]
    model: ModelSettings
    data: Sequence[str]
    videos: int
    backgrounds: Path | None
    context_tokens: int
    contexts: int

    def find(self) -> list[FilmJudge | ProseJudge]:
        """The judges, none of which is loaded yet.

        Raises:
            BatchError: what one of them needs is not there.
        """
        known: dict[str, Callable[[], FilmJudge | ProseJudge]]
        known = {"demo": self._demo, "prose": self._prose, "seeing": self._seeing}
        return [known[name]() for name in self.names]

    def _demo(self) -> FilmJudge:
        over = None if "seeing" in self.names else self.backgrounds
        draw = partial(choose_sets, self.data, backgrounds=over)
        return FilmJudge(name=self.model.name, model=self.model, draw=draw)

    def _prose(self) -> ProseJudge:
        model = LanguageModel(find(SMOLLM2))
        return ProseJudge(model, tokens=self.context_tokens, count=self.contexts)

    def _seeing(self) -> FilmJudge:
        checkpoint = find_judge()
        return FilmJudge(
            name="seeing",
            model=replace(self.model, name=str(checkpoint)),
            draw=partial(judge_sets, checkpoint, backgrounds=self.backgrounds),
            has_control=True,
        )


def films_of(sets: Iterable[QuestionSet]) -> list[Path]:
    """Each film or text once, in order."""
    return list(dict.fromkeys(question.video for one in sets for question in one.questions))
