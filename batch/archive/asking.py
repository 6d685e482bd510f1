"""Questions to the videos of an archive, with the model loaded once: at once, or as a job.

A job records what it is answered, so it goes on after any end, and several share one by shards.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.archive.answers import AnswerRecords, Wanted, write_table
from batch.archive.catalogue import catalogue_rows
from batch.archive.choosing import ADVICE, column_of, is_chosen, is_meant
from batch.archive.questions import Asked
from batch.archive.store import ProductFolder, Store
from batch.errors import BatchError
from batch.settings import AnswerSettings, WriterSettings
from cachefmt import CacheFileError
from jobs.runs import Run
from jobs.shards import Shard
from jobs.stopping import Stop

if TYPE_CHECKING:
    from batch.answering import VideoAnswerer
    from batch.models import Family


def choose_caches(store: Store, id: str | None) -> ProductFolder:
    """The caches of an ID, or those that were asked for last; a BatchError if there are none."""
    found = [caches for caches in store.all_caches() if id in (None, caches.id)]
    if not found:
        what = "no caches" if id is None else f"no work {id}"
        raise BatchError(
            f"{store.root}: {what} here; batch index writes them, batch status lists them"
        )
    return found[-1]


def load_model(caches: ProductFolder, how: WriterSettings) -> "Family":
    """Load the model that wrote caches."""
    from batch.models import open_model

    found = caches.read_settings()
    written = {"revision": found["revision"], "dtype": found["dtype"]}
    return open_model(how.of(name=found["model"], **written)).load()


def plan_questions(
    store: Store, caches: ProductFolder, asked: Sequence[Asked], match: Sequence[str] = ()
) -> list[Wanted]:
    """Which videos that are done answer which questions, in order of their paths.

    A video is asked if it fits one of `match`, as of `is_meant`, or if there are none.

    Raises:
        BatchError: no video is to be asked, or a question fits none.
    """
    columns = {"video", "path", "paths", "cache", "finished", "status"}
    wanted = [*match, *(one.video for one in asked if one.video is not None)]
    columns |= {column for one in wanted if (column := column_of(one)) is not None}
    done = [
        row for row in catalogue_rows(store, caches, sorted(columns)) if row["status"] == "done"
    ]
    if not done:
        raise BatchError(
            f"{store.root}: no video of work {caches.id} is done; batch index goes on with it, "
            "batch status shows how far it is"
        )
    chosen = [row for row in done if is_chosen(row, match)]
    _check_fit(store, caches, len(done), bool(chosen), [f"--match '{one}'" for one in match])
    is_asked = dict.fromkeys(asked, False)
    plan = []
    for row in chosen:
        its_own = [one for one in asked if one.video is None or is_meant(row, one.video)]
        is_asked |= dict.fromkeys(its_own, True)
        if its_own:
            plan.append(
                Wanted(
                    **{name: row[name] for name in ("video", "path", "cache")},
                    made=row["finished"].isoformat(),
                    questions=tuple(dict.fromkeys(one.question for one in its_own)),
                )
            )
    for one, fits in is_asked.items():
        _check_fit(store, caches, len(chosen), fits, [f"'{one.video}' of {one.question!r}"])
    return plan


def _check_fit(
    store: Store, caches: ProductFolder, videos: int, fits: bool, patterns: Sequence[str]
) -> None:
    if not fits:
        raise BatchError(
            f"{store.root}: of {videos:,} videos that are done in work {caches.id} none fits "
            f"{' '.join(patterns)}; {ADVICE}"
        )


def ask_videos(
    store: Store, plan: Iterable[Wanted], family: "Family", settings: AnswerSettings
) -> Iterator[tuple[Wanted, Iterator[list[dict[str, Any]]]]]:
    """Ask one video after the other; yields plain values of each answer, a batch as it comes.

    A cache that cannot be used gives an "error" for each question, and the others go on. Those
    `AnswerSettings` that answers depend on hold for all.
    """
    for wanted, video in _opened_ahead(store, plan, family, settings):
        yield wanted, _answers(wanted, video, settings.batch_size)


def _answers(
    wanted: Wanted, video: "VideoAnswerer | str", batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    if isinstance(video, str):
        yield [{"question": question, "error": video} for question in wanted.questions]
        return
    with video:
        for first in range(0, len(wanted.questions), batch_size):
            questions = wanted.questions[first : first + batch_size]
            try:
                yield _batch(video, questions)
            except unusable():  # of one of them; the others are answered
                for question in questions:
                    try:
                        yield _batch(video, [question])
                    except unusable() as error:
                        yield [{"question": question, "error": str(error)}]


def _batch(video: "VideoAnswerer", questions: Sequence[str]) -> list[dict[str, Any]]:
    started_s = time.monotonic()
    found = [
        {
            **answer.to_dict(),
            "likelihood": likelihood,
            "evidence": [asdict(one) for one in answer.evidence],
            "evidence_samples": list(video.samples_within(answer.evidence)),
        }
        for answer, likelihood in video.judged(questions)
    ]
    seconds = (time.monotonic() - started_s) / len(questions)
    return [{**row, "seconds": seconds} for row in found]


def unusable() -> tuple[type[Exception], ...]:
    """What costs a video or a question its answer, and not the run."""
    import torch

    return BatchError, CacheFileError, torch.OutOfMemoryError


def _opened_ahead(
    store: Store, plan: Iterable[Wanted], family: "Family", settings: AnswerSettings
) -> Iterator[tuple[Wanted, "VideoAnswerer | str"]]:
    """The videos of a plan, opened, or what is wrong with one; the next is read meanwhile."""
    from batch.answering import open_cache

    def opened(wanted: Wanted) -> "VideoAnswerer | str":
        path = store.root / wanted.cache
        try:
            video = open_cache(path, model=family, settings=settings)
        except unusable() as error:
            return str(error)
        if video.video == wanted.video:
            return video
        video.close()
        return f"{path}: holds video {video.video[:12]}, its record says {wanted.video[:12]}"

    coming: tuple[Wanted, Future[VideoAnswerer | str]] | None = None
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        try:
            for wanted in plan:
                here, coming = coming, (wanted, reader.submit(opened, wanted))
                if here is not None:
                    yield here[0], here[1].result()
            if coming is not None:
                here, coming = coming, None
                yield here[0], here[1].result()
        finally:
            if coming is not None and not isinstance(left := coming[1].result(), str):
                left.close()


@dataclass(frozen=True, kw_only=True)
class AnswerJob:
    """Questions to an archive, and where their answers are to be written."""

    store: Store
    caches: ProductFolder
    plan: Sequence[Wanted]
    settings: AnswerSettings
    dtype: str | None
    """None: the one of the caches."""
    shard: Shard
    out: Path


@dataclass(kw_only=True)
class AnswerTally:
    """What a job did: questions asked, those that failed among them, and what is left.

    - skipped: answered by an earlier run, in this shard.
    - missing: of all shards; the table is written when there is none.
    - seconds: of asking; the model was loaded before.
    """

    asked: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0
    seconds: float = 0.0


def run_job(
    job: AnswerJob,
    load: Callable[[], "Family"],
    stop: Stop,
    *,
    watch: Callable[[int], AbstractContextManager[Callable[[int], object]]],
    failed: Callable[[str], object],
    waiting: Callable[[str], object],
) -> AnswerTally:
    """Ask what is not answered yet, record it, and write the table of all once it is whole.

    Args:
        load: gives the model; called only if something is to be asked.
        watch: given how many are to be asked; gives what is told of each that was.
        failed: told of each cache, or question, that cannot be used.
        waiting: told if the table is waited for.

    Raises:
        BusyError: another run asks the same, or overlapping shards of it.
        NoSpaceError, JobError: records or table cannot be written.
    """
    settings = {name: getattr(job.settings, name) for name in _DECIDING}
    dtype = job.dtype or job.caches.read_settings()["dtype"]
    records = AnswerRecords(job.store, job.caches, {**settings, "dtype": dtype})
    tally = AnswerTally()
    with Run.begin(job.store.root, {f"answer {records.id}": job.shard}) as run:
        records.begin(run.folder)
        to_ask = []
        for wanted in job.plan:
            if job.shard.owns(wanted.video):
                recorded = records.read(wanted)
                is_left = [one for one in wanted.questions if _is_left(recorded.get(one))]
                tally.skipped += len(wanted.questions) - len(is_left)
                if is_left:
                    to_ask.append(replace(wanted, questions=tuple(is_left)))
        if to_ask and not stop.is_asked:
            family, total = load(), sum(len(wanted.questions) for wanted in to_ask)
            began_s = time.monotonic()
            with watch(total) as done:
                _ask_and_record(job, to_ask, family, records, run, stop, tally, done, failed)
            tally.seconds = time.monotonic() - began_s
        records.refresh()
        tally.missing = records.missing(job.plan)
        if not tally.missing:
            write_table(job.out, records.rows(job.plan), waiting)
    return tally


_DECIDING = ("scope", "budget_tokens", "max_new_tokens")
"""Settings that answers depend on; how many are answered together changes none."""


def _is_left(row: dict[str, Any] | None) -> bool:
    """What failed is tried again: a file may have been mended, or its calibration be there."""
    return row is None or row.get("error") is not None


def _ask_and_record(
    job: AnswerJob,
    to_ask: Sequence[Wanted],
    family: "Family",
    records: AnswerRecords,
    run: Run,
    stop: Stop,
    tally: AnswerTally,
    done: Callable[[int], object],
    failed: Callable[[str], object],
) -> None:
    for wanted, answers in ask_videos(job.store, to_ask, family, job.settings):
        said: set[str] = set()
        for batch in answers:
            answered = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            by = {"host": socket.gethostname(), "answered": answered}
            records.add(wanted, [{**answer, **by} for answer in batch], run.folder)
            tally.asked += len(batch)
            run.heartbeat()
            errors = [answer["error"] for answer in batch if "error" in answer]
            tally.failed += len(errors)
            for error in errors:
                if error not in said:
                    failed(error)
                said.add(error)
            done(len(batch))
            if stop.is_asked:
                return
