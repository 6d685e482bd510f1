"""`batch answer`: questions to replies, from a cache or from all caches of an archive."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from batch.cli.options import EXISTING, allow_open_files, json_option, run_options
from batch.cli.progress import PARTIAL

SCOPES = ("auto", "retrieve", "all")


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
    type=click.Choice(SCOPES),
    default="auto",
    show_default=True,
    help="What of a video answers: the samples that the question is about, or all segments, each "
    "for itself. auto: the whole of one file, retrieve of several segments.",
)
@click.option(
    "--budget-tokens",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Most tokens loaded for a question; with --scope all, in each segment.",
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
    scope: str,
    budget_tokens: int,
    device: str | None,
    dtype: str | None,
    attn: Any,
    as_json: bool,
) -> None:
    """Answer questions about one video from its cache, or about all videos of an archive.

    Prints one answer a line, in order, and behind a tab the times of the video that it rests on;
    --json keeps the line breaks within an answer. A video in segments answers from the samples
    that the question is about; --json says which, and what was read. With --scope all it is the
    answer of the segment that makes it likeliest, and --json has those of all. An archive gives a
    JSON object for each video, and exit code 3 if some cache could not be used. No video is needed.
    """
    if (cache is None) == (archive is None):
        raise click.UsageError("give --cache or --archive")
    if cache is not None and (match or work):
        raise click.UsageError("--match and --work go with --archive")
    allow_open_files()
    asked = _asked(questions)
    ask: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    reach: dict[str, Any] = {"scope": scope, "budget_tokens": budget_tokens}
    run: dict[str, Any] = {"model": model, "device": device, "dtype": dtype, "offline": offline}
    run["attention"] = attn
    if archive is not None:
        _ask_archive(archive, work, asked, match, run, {**reach, **ask})
    elif cache is not None:
        _ask_cache(cache, asked, {**reach, **run}, ask, as_json=as_json)


def _ask_archive(
    folder: Path,
    id: str | None,
    questions: list[str],
    match: tuple[str, ...],
    run: dict[str, Any],
    ask: dict[str, Any],
) -> None:
    from batch.archive.asking import ask_archive, check_has_videos, choose_work, load_model
    from batch.archive.store import Store

    store = Store(folder)
    work = choose_work(store, id)
    check_has_videos(store, work, match)
    failed = False
    for found in ask_archive(store, work, load_model(work, **run), questions, match=match, **ask):
        click.echo(json.dumps(found, ensure_ascii=False))
        if "error" in found:
            failed = True
            click.echo(f"error: {found['error']}", err=True)
    if failed:
        raise SystemExit(PARTIAL)


def _ask_cache(
    cache: Path,
    questions: list[str],
    run: dict[str, Any],
    ask: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from batch.answering import RetrievedReply, VideoAnswerer

    with VideoAnswerer.open(cache, **run) as video:
        loading = video.loading
        click.echo(
            f"scope {video.scope}: {loading.load_bytes:,} bytes loaded in "
            f"{loading.load_seconds:.3f} s; "
            f"re-encoding took {loading.reencode_seconds:.3f} s when they were written",
            err=True,
        )
        told = {"scope": video.scope, **asdict(loading)}
        for reply in video.ask(questions, **ask):
            if isinstance(reply, RetrievedReply):
                click.echo(
                    f"{len(reply.samples)} samples, {reply.loaded_tokens:,} tokens and "
                    f"{reply.rows_bytes:,} bytes read for: {reply.question}",
                    err=True,
                )
            if as_json:
                click.echo(json.dumps({**asdict(reply), **told}, ensure_ascii=False))
            else:
                times = ", ".join(map(str, reply.evidence)) or "no time"
                click.echo(f"{' '.join(reply.answer.splitlines())}\tat {times}")


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
