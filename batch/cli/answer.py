"""`batch answer`: questions to answers, from a cache or from all caches of an archive."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli import options
from batch.cli.archive_questions import ArchiveQuestions, check_table
from batch.cli.engines import answer_stages, engine_options
from batch.cli.kinds import Kind, expect
from batch.cli.progress import quiet_option, say
from batch.settings import AnswerSettings, WriterSettings
from jobs.shards import Shard, Stage

if TYPE_CHECKING:
    from batch.answering import Answer, VideoAnswerer
    from batch.report.videos import VideoReport


def _stages(context: click.Context, tasks: int, gpu_tasks: int) -> list[Stage]:
    given = context.params
    if given["out"] is None or not (given["file"] or given["questions"]):
        raise click.UsageError("--engine goes with --out, and --questions or -q")
    return answer_stages(context, tasks, gpu_tasks)


@click.command()
@click.argument("cache", type=options.EXISTING)
@click.option(
    "--match",
    multiple=True,
    help="Of a folder of caches: only videos whose path fits, as '*/2024/*', or a column of the "
    "catalogue, as 'duration_s>=600'; repeat for more.",
)
@click.option(
    "--work", help="Of a folder of caches, as batch status lists them; default: the last one."
)
@click.option(
    "-q",
    "--question",
    "questions",
    multiple=True,
    help="Repeat for more; without it, one per line of stdin.",
)
@click.option(
    "--questions",
    "file",
    type=options.EXISTING_FILE,
    help="Of a folder of caches: a file of questions, a line each (.txt), or a row each (.csv, "
    ".jsonl, .parquet) with a column question and perhaps video, as of --match.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of a folder of caches: write a table of all answers, as .parquet, .csv or .jsonl. The "
    "same command goes on with it and asks only what is not answered.",
)
@click.option(
    "--shard",
    type=options.Parsed("index/count", Shard.parse),
    default="0/1",
    show_default=True,
    help="With --out: only this task's share of the videos, 0/4 to 3/4; the last writes the table.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Questions answered together, over one copy of the cache.",
)
@click.option(
    "--html",
    type=options.FILE,
    help="Also write a page of the answers, with the samples that each rests on.",
)
@click.option(
    "--evidence",
    type=options.FILE,
    help="Also write the times that answers rest on: NAME.csv, NAME.vtt (WebVTT, which players "
    "show), or NAME.json (for Label Studio).",
)
@options.answer_options
@options.json_option
@engine_options(
    _stages, folder="cache", of_tasks="parts of a job with --out, each with a GPU of its own."
)
@quiet_option
def answer(
    cache: Path,
    match: tuple[str, ...],
    work: str | None,
    questions: tuple[str, ...],
    file: Path | None,
    out: Path | None,
    shard: Shard,
    batch_size: int,
    html: Path | None,
    evidence: Path | None,
    writer: WriterSettings,
    settings: AnswerSettings,
    as_json: bool,
) -> None:
    """Answer questions about one video from its CACHE, or about all that batch index made.

    CACHE is a file or a folder of segments; or a folder of caches that batch index writes: then
    each of its videos is asked, a JSON object each, and the exit code is 3 if some cache could not
    be used. With --out all answers go into one table, and what is answered once is not asked again;
    exit code 75: stopped, or another run asks the same. Prints one answer a line, in order, and
    behind a tab the times of the video that it rests on; --json keeps the line breaks within an
    answer. A video in segments answers from the samples that the question is about; --json lists
    them, and what was read. With --scope each-segment --json has the answers of all. No video is
    needed.
    """
    is_index = _is_index(cache, bool(match or work or file or out), bool(html or evidence))
    if questions and file:
        raise click.UsageError("-q and --questions: give one of them")
    if out is None and shard != Shard():
        raise click.UsageError("--shard goes with --out")
    options.allow_open_files()
    seen = None if html is evidence is None else _seen(cache, html, evidence)
    asked = [] if file else _asked(questions)
    if out is not None:
        check_table(out)
    settings = replace(settings, batch_size=batch_size)
    if is_index:
        archive = ArchiveQuestions(cache, work, match, settings, writer)
        plan = archive.plan(asked, file)
        if out is None:
            archive.ask(plan)
        else:
            archive.run_job(plan, out, shard)
        return
    from batch.answering import open_cache

    with open_cache(cache, settings=settings, **asdict(writer)) as video:
        answered = _ask(video, asked, as_json=as_json)
    if seen is not None:
        _show(seen, answered, html, evidence)


def _is_index(cache: Path, for_index: bool, for_video: bool) -> bool:
    """Whether it is a folder of batch index; wrong usage with options of the other kind."""
    kind = expect(cache, {Kind.CACHE, Kind.SEGMENTS, Kind.INDEX}, "a cache")
    if kind is not Kind.INDEX and for_index:
        raise click.UsageError(
            "--match, --work, --questions and --out go with a folder of caches of batch index"
        )
    if kind is Kind.INDEX and for_video:
        raise click.UsageError("--html and --evidence go with the cache of one video")
    return kind is Kind.INDEX


def _seen(cache: Path, html: Path | None, evidence: Path | None) -> "VideoReport":
    """What pages show of a cache, read before anything long begins."""
    from batch.report.videos import VideoReport
    from jobs.atomic import check_folder

    if evidence is not None and evidence.suffix not in (".csv", ".vtt", ".json"):
        raise click.UsageError(f"--evidence: got {evidence}, expected a .csv, .vtt or .json")
    for file in (html, evidence):
        if file is not None:
            check_folder(file.parent)
    return VideoReport.read(cache)


def _show(
    seen: "VideoReport", answered: "Sequence[Answer]", html: Path | None, evidence: Path | None
) -> None:
    from batch.report.exports import evidence_cues, write
    from batch.report.pages import AnsweredVideo, ShownAnswer, answers_page
    from batch.report.rendering import shown_name
    from jobs.atomic import make_folder, write_whole

    answers = [ShownAnswer.of(answer) for answer in answered]
    found = AnsweredVideo(video=seen, answers=answers)
    texts: dict[Path, str] = {}
    if html is not None:
        title = answers[0].question if len(answers) == 1 else f"{len(answers)} questions"
        name = shown_name(seen.manifest.video.name)
        texts[html] = answers_page([found], title=f"{title} · {name}")
    if evidence is not None:
        to: Any = evidence.suffix[1:]
        texts[evidence] = write(seen, evidence_cues(found), to)
    for file, text in texts.items():
        make_folder(file.parent)
        write_whole(file, text.encode(errors="replace"))


def _ask(video: "VideoAnswerer", asked: Sequence[str], *, as_json: bool) -> "list[Answer]":
    """Print the answers as they come, and what it took at the end."""
    started_s = time.perf_counter()
    answered = list["Answer"]()
    for reply in video.ask_all(asked):
        if as_json:
            found = {**reply.to_dict(), "scope": video.scope, **asdict(video.loading)}
            click.echo(json.dumps(found, ensure_ascii=False))
        else:
            click.echo(line_of(reply))
        answered.append(reply)
    say(_summary(video, answered, time.perf_counter() - started_s))
    return answered


def line_of(reply: "Answer") -> str:
    """An answer as a line, and behind a tab the times that it rests on."""
    times = ", ".join(map(str, reply.evidence)) or "no time"
    return f"{' '.join(reply.text.splitlines())}\tat {times}"


def _summary(video: "VideoAnswerer", answered: Sequence["Answer"], seconds: float) -> str:
    from batch.answering import RetrievedAnswer

    loading = video.loading
    text = f"{len(answered)} answered in {seconds:.2f} s, scope {video.scope}"
    found = [one for one in answered if isinstance(one, RetrievedAnswer)]
    if found:
        samples = sum(len(one.samples) for one in found)
        tokens = sum(one.loaded_tokens for one in found)
        read_bytes = sum(one.rows_bytes for one in found)
        text += f": {samples:,} samples, {tokens:,} tokens and {read_bytes:,} bytes read"
    text += f"; {loading.load_bytes:,} bytes loaded in {loading.load_seconds:.3f} s"
    return f"{text}, which took {loading.reencode_seconds:.3f} s to make from the video's samples"


def _asked(questions: tuple[str, ...]) -> list[str]:
    """The questions given, or those on stdin, where blank lines are none."""
    if not questions and sys.stdin.isatty():
        raise click.UsageError("no question: give -q; batch ask opens a prompt")
    try:
        asked = list(questions) or [line for line in sys.stdin.read().splitlines() if line.strip()]
        "".join(asked).encode()
    except UnicodeError as error:
        raise click.UsageError("a question is not UTF-8 text") from error
    if not all(one.strip() for one in asked or [""]):
        raise click.UsageError("no question: give -q, or one per line of stdin")
    return asked
