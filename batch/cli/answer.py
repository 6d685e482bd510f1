"""`batch answer`: questions to replies, from a cache."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from batch.cli.options import EXISTING_FILE, json_option, run_options


@click.command()
@click.option("--cache", required=True, type=EXISTING_FILE, help="File written by batch prefill.")
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
@run_options
@json_option
def answer(
    cache: Path,
    questions: tuple[str, ...],
    model: str | None,
    offline: bool,
    max_new_tokens: int,
    batch_size: int,
    device: str | None,
    dtype: str | None,
    attn: Any,
    as_json: bool,
) -> None:
    """Answer questions about one video from its cache.

    Prints one answer a line, in order, and behind a tab the times of the video that it rests on;
    --json keeps the line breaks within an answer. The video is not needed.
    """
    from batch.answering import Answerer
    from batch.cli.options import choose_device

    asked = _asked(questions)
    with Answerer.open(
        cache,
        model=model,
        device=choose_device(device),
        dtype=dtype,
        attention=attn,
        offline=offline,
    ) as video:
        loading = video.loading
        click.echo(
            f"{loading.load_bytes:,} bytes loaded in {loading.load_seconds:.3f} s; "
            f"re-encoding took {loading.reencode_seconds:.3f} s when they were written",
            err=True,
        )
        for reply in video.ask(asked, max_new_tokens=max_new_tokens, batch_size=batch_size):
            if as_json:
                click.echo(json.dumps({**asdict(reply), **asdict(loading)}, ensure_ascii=False))
            else:
                times = ", ".join(map(str, reply.evidence))
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
