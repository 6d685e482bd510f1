"""`batch search`: which videos of a folder of caches a question is about, and when.

`batch ask CACHES -q` answers from the best of them.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.kinds import Kind, expect
from batch.cli.progress import FAILED, PARTIAL, in_line, progress, quiet_option, say
from batch.settings import AnswerSettings, WriterSettings

if TYPE_CHECKING:
    from batch.answering import Answer
    from batch.archive.searching import CaptionIndex, Scene
    from batch.models import Family
    from batch.serving.library import Library, Video


def with_words(_: object, __: object, question: str | None) -> str | None:
    """The callback of a question that videos are searched by."""
    if question is not None:
        from batch.archive.searching import words_of

        if not words_of(question):
            raise click.BadParameter(f"got {question!r}, expected some words")
        try:
            question.encode()
        except UnicodeError as error:
            raise click.BadParameter("is not UTF-8 text") from error
    return question


@click.command()
@click.argument("caches", type=options.EXISTING_FOLDER)
@click.option(
    "-q",
    "--question",
    required=True,
    callback=with_words,
    help="A question, or what is to be seen.",
)
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, help="Videos listed at most."
)
@click.option(
    "--match",
    multiple=True,
    help="Only videos whose path fits, as '*/2024/*', or a column of the catalogue, as "
    "'duration_s>=600'; repeat for more.",
)
@click.option("--work", help="Of a folder of batch index, as batch status lists them.")
@options.writer_options
@options.json_option
@quiet_option
def search(
    caches: Path,
    question: str,
    top: int,
    match: tuple[str, ...],
    work: str | None,
    writer: WriterSettings,
    as_json: bool,
) -> None:
    """List the videos of CACHES that a question is about, the best first, and when.

    CACHES is a folder of caches. A line has the video, the time of its best scene and what that
    shows, between tabs; --json has the score too. The first search lets the model that wrote the
    caches describe each scene, once, and keeps that beside them; later ones describe what is new or
    changed, and without any need no model. Words of the question are looked for in what was
    described: what no caption says is not found, so ask in the words of one ("a red car in the
    snow"). Exit code 3: some cache could not be described. batch ask CACHES -q answers from the
    best videos.
    """
    expect(caches, {Kind.CACHE_FOLDER, Kind.INDEX}, "a folder of caches")
    options.allow_open_files()
    from batch.archive.choosing import ADVICE, is_chosen
    from batch.errors import BatchError
    from batch.serving.library import Library

    library = Library(caches, work)
    chosen = {video.id: video for video in library if is_chosen(video.facts, match)}
    if not chosen:
        wanted = " ".join(f"--match '{one}'" for one in match)
        raise BatchError(f"{caches}: of {len(library):,} videos none fits {wanted}; {ADVICE}")
    index, failures = read_captions(library, chosen, partial(library.load_model, writer))
    found = list(islice(index.search(question), top))
    for scene in found:
        click.echo(_found_line(scene, chosen[scene.video], as_json=as_json))
    if not found:
        say(f"no scene of {len(chosen):,} videos was described with a word of {question!r}")
    if failures:
        raise SystemExit(PARTIAL)


def _found_line(scene: "Scene", video: "Video", *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"path": video.name, **_plain(scene)}, ensure_ascii=False)
    return f"{in_line(video.name)}\t{scene.time}\t{' '.join(scene.caption.split())}"


def _plain(scene: "Scene") -> dict[str, object]:
    time = asdict(scene.time)
    return {"video": scene.video, **time, "caption": scene.caption, "score": scene.score}


def read_captions(
    library: "Library", wanted: Collection[str], load: "Callable[[], Family]"
) -> "tuple[CaptionIndex, int]":
    """What some videos show, described now where it is not known; and how many cannot be."""
    from batch.archive.searching import update

    failures = 0

    def fail(message: str) -> None:
        nonlocal failures
        failures += 1
        click.echo(f"error: {message}", err=True)

    index = update(
        library.captions,
        {video.id: video.cache for video in library},
        wanted,
        load,
        watch=lambda total: progress("describe", total, "videos"),
        failed=fail,
        waiting=say,
    )
    for error in library.damaged:
        fail(str(error))
    return index, failures


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What a video answers that was found, by a scene of it."""

    video: "Video"
    scene: "Scene"
    answer: "Answer"
    likelihood: float


def answer_best(
    library: "Library",
    family: "Family",
    settings: AnswerSettings,
    question: str,
    *,
    most: int,
    as_json: bool,
) -> None:
    """Let the videos that a question is about most answer it, and print that, the likeliest first.

    Videos with one answer share a line; in JSON each has its own. Exits with 1 if none answers, 3
    if some cache cannot be used.

    Source of the order: 24 questions to 10 drawn films each, half of which show what is asked, demo
    model: likelihoods part them with an area under the curve of 0.68 (where is ...), 0.98 and 1.00
    (what shape, what colour); less that of the same answer without a video, with 0.54 to 0.72.
    """
    from batch.answering import open_cache
    from batch.archive.asking import unusable

    videos = {video.id: video for video in library}
    index, failures = read_captions(library, videos, lambda: family)
    found = []
    for scene in index.best(question, most):
        video = videos[scene.video]
        try:
            with open_cache(video.cache, model=family, settings=settings) as opened:
                ((answer, likelihood),) = opened.judged([question])
        except unusable() as error:
            failures += 1
            click.echo(f"error: {error}", err=True)
            continue
        found.append(_Answered(video=video, scene=scene, answer=answer, likelihood=likelihood))
    found.sort(key=lambda one: -one.likelihood)
    for line in map(_answer_json, found) if as_json else _answer_lines(found, len(videos)):
        click.echo(line)
    if found:
        say(f"asked the best {len(found)} of {len(videos):,} videos; batch search lists more")
    else:
        click.echo(f"no answer: nothing like {question!r} was described in a video", err=True)
        raise SystemExit(FAILED)
    if failures:
        raise SystemExit(PARTIAL)


def _answer_json(one: _Answered) -> str:
    found = {"path": one.video.name, **_plain(one.scene), **one.answer.to_dict()}
    return json.dumps({**found, "likelihood": one.likelihood}, ensure_ascii=False)


def _answer_lines(found: Sequence[_Answered], total: int) -> Iterator[str]:
    together = defaultdict(list)
    for one in found:
        together[" ".join(one.answer.text.split())].append(one)
    for text, same in together.items():
        where = "; ".join(
            f"{in_line(one.video.name)} at {', '.join(map(str, one.answer.evidence)) or 'no time'}"
            for one in same
        )
        yield f"{text}\tin {len(same)} of {total:,} videos: {where}"
