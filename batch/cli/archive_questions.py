"""Questions to a folder of caches from the command line: printed as they come, or as a job."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli.progress import PARTIAL, in_words, progress, say
from batch.settings import AnswerSettings, WriterSettings
from jobs.atomic import check_folder
from jobs.errors import BusyError
from jobs.shards import Shard
from jobs.stopping import STOPPED, stop_on_signals

if TYPE_CHECKING:
    from batch.archive.answers import Wanted
    from batch.models import Family


def check_table(path: Path) -> None:
    """Wrong usage if no table of answers can be called so; a JobError if it cannot be written."""
    from batch.archive.answers import TABLE_SUFFIXES

    if path.suffix not in TABLE_SUFFIXES:
        raise click.UsageError(
            f"--out {path}: got {path.suffix or 'no suffix'}, expected {', '.join(TABLE_SUFFIXES)}"
        )
    check_folder(path.absolute().parent)


class ArchiveQuestions:
    """Asks the videos of a work; its model is loaded when the first is asked."""

    def __init__(
        self,
        folder: Path,
        work: str | None,
        match: tuple[str, ...],
        settings: AnswerSettings,
        writer: WriterSettings,
    ) -> None:
        from batch.archive.asking import choose_caches
        from batch.archive.store import Store

        self._store = Store(folder)
        self._caches = choose_caches(self._store, work)
        self._match = match
        self._settings = settings
        self._writer = writer
        self._family: Family | None = None
        self._has_failed = False

    def plan(self, questions: Sequence[str], file: Path | None) -> "list[Wanted]":
        """Which videos answer what is asked, or what is asked in a file."""
        from batch.archive.asking import plan_questions
        from batch.archive.questions import Asked, read_questions

        asked = [Asked(question=one) for one in questions] if file is None else read_questions(file)
        return plan_questions(self._store, self._caches, asked, self._match)

    def ask(self, plan: "Sequence[Wanted]") -> None:
        """Print an object for each video; exit with 3 if something could not be asked."""
        from batch.archive.asking import ask_videos

        for wanted, answers in ask_videos(self._store, plan, self._load(), self._settings):
            rows = [row for batch in answers for row in batch]
            errors = [row["error"] for row in rows if "error" in row]
            found: dict[str, Any] = {"answers": rows}
            if len(errors) == len(rows):
                found = {"error": errors[0]}
            where = {"video": wanted.video, "path": wanted.path, "cache": wanted.cache}
            click.echo(json.dumps({**where, **found}, ensure_ascii=False))
            for error in dict.fromkeys(errors):
                self._fail(error)
        if self._has_failed:
            raise SystemExit(PARTIAL)

    def run_job(self, plan: "Sequence[Wanted]", out: Path, shard: Shard) -> None:
        """Ask what is not answered yet, write the table, and say how it went."""
        from batch.archive.asking import AnswerJob, run_job

        job = AnswerJob(
            store=self._store,
            caches=self._caches,
            plan=plan,
            settings=self._settings,
            dtype=self._writer.dtype,
            shard=shard,
            out=out,
        )
        with stop_on_signals() as stop:
            try:
                tally = run_job(
                    job,
                    self._load,
                    stop,
                    watch=lambda total: progress("answer", total, "answers"),
                    failed=self._fail,
                    waiting=say,
                )
            except BusyError as error:
                click.echo(f"warning: {error}", err=True)
                raise SystemExit(STOPPED) from error
        counts = {
            "answered": tally.asked - tally.failed,
            "skipped": tally.skipped,
            "failed": tally.failed,
            "not asked yet": tally.missing,
        }
        text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        rate = f", {tally.asked / tally.seconds:,.1f} a second" if tally.asked else ""
        say(f"{text}; {in_words(tally.seconds)}{rate}")
        if not tally.missing:
            click.echo(out)
        if stop.signal is not None:
            say(f"stopped by {stop.signal.name}, the same command goes on")
            raise SystemExit(STOPPED)
        if tally.failed:
            raise SystemExit(PARTIAL)

    def _load(self) -> "Family":
        from batch.archive.asking import load_model

        if self._family is None:
            self._family = load_model(self._caches, self._writer)
        return self._family

    def _fail(self, message: str) -> None:
        self._has_failed = True
        click.echo(f"error: {message}", err=True)
