"""`--suite methods` and `ablations`: the same methods before the judges that are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batch.analysis.neural import SaliencyNetwork
from batch.errors import BatchError
from batch.evaluation.choosing import choose_entries
from batch.evaluation.chosen_judges import FilmJudge, Judges, films_of
from batch.evaluation.comparison import Judged
from batch.evaluation.judges.packages import SMOLLM2
from batch.evaluation.judges.prose import ProseJudge
from batch.evaluation.judges.schemes import Scheme, choose_schemes
from batch.evaluation.kept_runs import KeptRuns
from batch.evaluation.running import Progress, run_methods
from batch.evaluation.runs import Entry
from batch.evaluation.storing import PreparedVideo
from batch.models import open_model
from batch.models.checkpoint import dtype_name
from batch.settings import Limit
from batch.video import Sampling


@dataclass(frozen=True, kw_only=True)
class MethodsSuite:
    """What is compared.

    - suites, methods, limits: as of `choose_entries`. seed, sampling, saliency: of films.
    - out: where runs are kept; None: nowhere.
    """

    suites: Sequence[str]
    methods: Sequence[str]
    limits: Sequence[Limit]
    seed: int
    sampling: Sampling
    saliency: SaliencyNetwork | None
    out: Path | None

    def ask(self, judges: Judges, folder: Path, progress: Progress) -> list[Judged]:
        """Run what has not been run; films and texts go into a folder.

        Raises:
            BatchError: what a judge needs is not there, or it knows none of the methods; nothing
                has been run then.
        """
        entries = choose_entries(self.suites, self.methods, self.limits)
        schemes: list[Scheme] = []
        found = judges.find()
        for judge in found:
            if isinstance(judge, ProseJudge):
                schemes = choose_schemes(entries, self.methods, self.limits)
            elif not entries:
                raise BatchError(f"--method: no method for films among {', '.join(self.methods)}")
        return [
            self._ask_about_films(judge, judges.videos, entries, folder, progress)
            if isinstance(judge, FilmJudge)
            else self._ask_about_texts(judge, schemes, folder, progress)
            for judge in found
        ]

    def _ask_about_films(
        self,
        judge: FilmJudge,
        videos: int,
        entries: Sequence[Entry],
        folder: Path,
        progress: Progress,
    ) -> Judged:
        family = open_model(judge.model).load()
        sets = judge.sets(folder, videos, (self.seed,))
        dtype, device = dtype_name(family.model.dtype), family.device.type
        kept = self._kept(
            weights=family.checkpoint.weights_sha256,
            dtype=dtype,
            device=device,
            sampling=self.sampling,
            saliency=self.saliency and self.saliency.sha256,
        )
        prepare = partial(
            PreparedVideo, family=family, sampling=self.sampling, saliency=self.saliency
        )
        with progress(judge.name, len(films_of(sets)), "videos") as report:
            runs = run_methods(
                prepare,
                sets,
                entries,
                folder=folder,
                report=report,
                has_control=judge.has_control,
                kept=kept,
            )
            return Judged(
                judge=judge.name,
                model=family.checkpoint.name,
                dtype=dtype,
                device=device,
                sets=sets,
                runs=list(runs),
                prepare=prepare,
            )

    def _ask_about_texts(
        self, judge: ProseJudge, schemes: Sequence[Scheme], folder: Path, progress: Progress
    ) -> Judged:
        sets, kept = judge.sets(folder), self._kept(weights=SMOLLM2.record)
        with progress(judge.name, len(films_of(sets)), "texts") as report:
            return Judged(
                judge=judge.name,
                model=SMOLLM2.requirement,
                dtype="float32",
                device="cpu",
                sets=sets,
                runs=list(judge.run_all(sets, schemes, report=report, kept=kept)),
            )

    def _kept(self, **circumstances: object) -> KeptRuns | None:
        return None if self.out is None else KeptRuns.within(self.out, circumstances)
