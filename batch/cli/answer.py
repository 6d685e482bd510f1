"""`batch answer`: questions to answers, from a cache or from all caches of an archive."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from batch.cli.options import EXISTING, allow_open_files, json_option, run_options
from batch.cli.progress import PARTIAL
from batch.settings import Attention, Scope

if TYPE_CHECKING:
    from batch.answering import VideoAnswerer


@click.command()
@click.option(
    "--cache", type=EXISTING, help="File, or folder of segments, written by batch prefill."
)
@click.option(
    "--archive",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder written by batch index; asks all its videos.",
)
@click.option("--match", multiple=True, help="Only videos whose path fits, as '*/2024/*'.")
@click.option("--work", help="Of an archive, as batch status lists them; default: the last one.")
@click.option(
    "-q",
    "--question",
    "questions",
    multiple=True,
    help="Repeat for more; without it, one per line of stdin.",
)
@click.option("--model", help="Folder or hub id; default: the one that wrote the cache.")
@click.option("--offline", is_flag=True, help="Use only what is on this machine.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Questions answered together, over one copy of the cache.",
)
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default="auto",
    show_default=True,
    help="What of a video answers. whole: all of it, which must be one segment; retrieve: the "
    "samples that the question is about; each-segment: every segment by itself, and the likeliest "
    "of their answers is the video's; auto: whole, or of several segments retrieve (each-segment "
    "where the cache has no index).",
)
@click.option(
    "--budget-tokens",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Most tokens loaded for a question; with --scope each-segment, in each segment.",
)
@run_options
@json_option
def answer(
    cache: Path | None,
    archive: Path | None,
    match: tuple[str, ...],
    work: str | None,
    questions: tuple[str, ...],
    model: str | None,
    offline: bool,
    max_new_tokens: int,
    batch_size: int,
    scope: Scope,
    budget_tokens: int,
    device: str | None,
    dtype: str | None,
    attn: Attention,
    as_json: bool,
) -> None:
    """Answer questions about one video from its cache, or about all videos of an archive.

    Prints one answer a line, in order, and behind a tab the times of the video that it rests on;
    --json keeps the line breaks within an answer. A video in segments answers from the samples
    that the question is about; --json lists them, and what was read. With --scope
    each-segment --json has the answers of all. An archive gives a JSON object for each video, and
    exit code 3 if some cache could not be used. No video is needed.
    """
    if (cache is None) == (archive is None):
        raise click.UsageError("give --cache or --archive")
    if cache is not None and (match or work):
        raise click.UsageError("--match and --work go with --archive")
    allow_open_files()
    asked = _asked(questions)
    from batch.answering import AnswerSettings, open_cache

    settings = AnswerSettings(
        scope=scope,
        budget_tokens=budget_tokens,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    if cache is not None:
        with open_cache(
            cache,
            settings=settings,
            model=model,
            device=device,
            dtype=dtype,
            attention=attn,
            offline=offline,
        ) as video:
            _print_answers(video, asked, as_json=as_json)
    elif archive is not None:
        from batch.archive.asking import ask_archive, check_has_videos, choose_caches, load_model
        from batch.archive.store import Store

        store = Store(archive)
        its_work = choose_caches(store, work)
        check_has_videos(store, its_work, match)
        family = load_model(
            its_work, model=model, device=device, dtype=dtype, attention=attn, offline=offline
        )
        _print_videos(ask_archive(store, its_work, family, asked, match=match, settings=settings))


def _print_answers(video: "VideoAnswerer", questions: list[str], *, as_json: bool) -> None:
    from batch.answering import RetrievedAnswer

    loading = video.loading
    click.echo(
        f"scope {video.scope}: {loading.load_bytes:,} bytes loaded in {loading.load_seconds:.3f} s;"
        f" re-encoding took {loading.reencode_seconds:.3f} s when they were written",
        err=True,
    )
    for answer in video.ask_all(questions):
        if isinstance(answer, RetrievedAnswer):
            click.echo(
                f"{len(answer.samples)} samples, {answer.loaded_tokens:,} tokens and "
                f"{answer.rows_bytes:,} bytes read for: {answer.question}",
                err=True,
            )
        if as_json:
            found = {**answer.to_dict(), "scope": video.scope, **asdict(loading)}
            click.echo(json.dumps(found, ensure_ascii=False))
        else:
            times = ", ".join(map(str, answer.evidence)) or "no time"
            click.echo(f"{' '.join(answer.text.splitlines())}\tat {times}")


def _print_videos(videos: Iterable[dict[str, Any]]) -> None:
    failed = False
    for video in videos:
        click.echo(json.dumps(video, ensure_ascii=False))
        if "error" in video:
            failed = True
            click.echo(f"error: {video['error']}", err=True)
    if failed:
        raise SystemExit(PARTIAL)


def _asked(questions: tuple[str, ...]) -> list[str]:
    """The questions given, or those on stdin, where blank lines are none."""
    try:
        asked = list(questions) or [line for line in sys.stdin.read().splitlines() if line.strip()]
        "".join(asked).encode()
    except UnicodeError as error:
        raise click.UsageError("a question is not UTF-8 text") from error
    if not asked:
        raise click.UsageError("no question: give -q, or one per line of stdin")
    return asked
