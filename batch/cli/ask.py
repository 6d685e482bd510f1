"""`batch ask`: a prompt that stays loaded; each question sees the conversation before it."""

import contextlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batch.cli import options
from batch.cli.answer import line_of
from batch.cli.kinds import Kind, expect
from batch.cli.progress import FAILED, PARTIAL, in_line, quiet_option, say
from batch.cli.search import answer_best, with_words
from batch.settings import AnswerSettings, WriterSettings

if TYPE_CHECKING:
    from batch.answering import Answer, VideoAnswerer
    from batch.models import Family
    from batch.serving.library import Library, Video

_HELP = """\
a question     answered from the video; the next one sees the conversation so far
/evidence      a page in the browser: the answers, and the samples that each rests on
/video [NAME]  the videos that can be asked, or ask another: its ID, or a pattern of its path
/new           forget the conversation
/help          this
Ctrl-D         ends; Ctrl-C stops an answer"""

_MOST_LISTED = 20
_MOST_HISTORY = 1_000


@click.command()
@click.argument("caches", type=options.EXISTING)
@click.option("--video", "wanted", help="Which one to ask first: an ID, or a pattern of its path.")
@click.option("--work", help="Of a folder of batch index, as batch status lists them.")
@click.option(
    "-q",
    "--question",
    callback=with_words,
    help="Ask this alone, of those videos of a folder that it is about most.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="With -q: how many answer at most.",
)
@click.option("--json", "as_json", is_flag=True, help="With -q: one JSON object a video.")
@options.answer_options
@quiet_option
def ask(
    caches: Path,
    wanted: str | None,
    work: str | None,
    question: str | None,
    top: int,
    as_json: bool,
    writer: WriterSettings,
    settings: AnswerSettings,
) -> None:
    """Ask the videos of CACHES one question after the other, with the model loaded once.

    CACHES is a cache, or a folder of them. On a terminal it is a prompt with a history, and words
    appear as they are found. Elsewhere it reads a question a line and prints an answer a line, and
    behind a tab the times that it rests on. Either way a question sees those before it, until
    /new. Questions that stand alone are for batch answer, which answers many together.

    With -q it finds the videos of a folder that a question is about, as batch search does, and
    prints what the best ones answer: an answer a line, the likeliest first, and behind a tab in
    how many of the videos, which, and at what times.
    """
    _check(caches, wanted, is_search=question is not None)
    options.allow_open_files()
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    from batch.serving.library import Library

    library = Library(caches, work)
    first = library.find(wanted) if wanted else next(iter(library)) if len(library) == 1 else None
    if first is None and question is None and not is_terminal:
        raise click.UsageError(f"{len(library):,} videos can be asked: choose one with --video")
    family = library.load_model(writer)
    if question is not None:
        answer_best(library, family, settings, question, most=top, as_json=as_json)
        return
    for error in library.damaged:
        click.echo(f"error: {error}", err=True)
    with _Talk(library, family, settings, streams=is_terminal) as talk:
        if is_terminal:
            say("/help tells what there is; Ctrl-D ends")
        talk.start(first)
        try:
            for line in _typed() if is_terminal else sys.stdin:
                line.encode()
                talk.hear(line.strip())
        except UnicodeError as error:
            raise click.UsageError("a question is not UTF-8 text") from error
    if talk.failed:
        raise SystemExit(PARTIAL if talk.answered else FAILED)


def _check(caches: Path, wanted: str | None, *, is_search: bool) -> None:
    """Wrong usage if what is given does not go together."""
    folders = {Kind.CACHE_FOLDER, Kind.INDEX}
    if is_search:
        expect(caches, folders, "a folder of caches")
        if wanted:
            raise click.UsageError("-q finds the videos, --video names one: give one of them")
        return
    expect(caches, folders | {Kind.CACHE, Kind.SEGMENTS}, "a cache, or a folder of them")
    source = click.get_current_context().get_parameter_source
    for name, option in (("top", "--top"), ("as_json", "--json")):
        if source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} goes with -q")


@dataclass
class _Talk:
    """A conversation about one video at a time."""

    library: "Library"
    family: "Family"
    settings: AnswerSettings
    streams: bool
    answered: int = 0
    failed: int = 0
    _video: "Video | None" = None
    _opened: "VideoAnswerer | None" = None
    _turns: list[str] = field(default_factory=list)
    _answers: "list[Answer]" = field(default_factory=list)

    def __enter__(self) -> "_Talk":
        self._pages = tempfile.TemporaryDirectory(prefix="sali-cache-")
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._pages.cleanup()

    def start(self, video: "Video | None") -> None:
        """Ask a video from now on; without one, say which there are."""
        if video is None:
            self._list()
            return
        from batch.answering import open_cache

        opened = open_cache(video.cache, model=self.family, settings=self.settings)
        self._close()
        self._video, self._opened = video, opened
        self._forget()
        say(f"asking {in_line(video.name)}")

    def hear(self, line: str) -> None:
        """Do what a line says; an error of ours is told, and the next line is heard."""
        from batch.archive.asking import unusable

        commands: dict[str, Callable[[str], None]]
        commands = {"/video": self._choose, "/evidence": self._show, "/new": self._forget}
        word, _, rest = line.partition(" ")
        try:
            if word in commands:
                commands[word](rest.strip())
            elif word.startswith("/"):
                click.echo(_HELP, err=True)
            elif line:
                self._ask(line)
        except unusable() as error:
            self.failed += not self.streams
            click.echo(f"error: {error}", err=True)
        except KeyboardInterrupt:  # of an answer, which is left out of the conversation
            if not self.streams:
                raise
            click.echo("")

    def _ask(self, question: str) -> None:
        from batch.answering import Answer
        from batch.errors import BatchError

        if self._opened is None:
            raise BatchError("no video is chosen: /video NAME")
        turns = (*self._turns, question)
        for _, more in self._opened.stream([turns]):
            if isinstance(more, Answer):
                self._turns = [*turns, more.text]
                self._answers.append(more)
                self.answered += 1
                click.echo(_times(more) if self.streams else line_of(more))
                sys.stdout.flush()
            elif self.streams:
                click.echo(more, nl=False)

    def _choose(self, name: str) -> None:
        self.library.refresh()
        if name:
            self.start(self.library.find(name))
        else:
            self._list()

    def _list(self) -> None:
        for number, video in enumerate(self.library):
            if number == _MOST_LISTED:
                click.echo(f"and {len(self.library) - number:,} more", err=True)
                return
            mark = "*" if video == self._video else " "
            click.echo(f"{mark} {video.id[:12]}  {in_line(video.name)}", err=True)

    def _show(self, _: str) -> None:
        from batch.errors import BatchError
        from batch.serving.pages import of_answers

        if self._video is None or not self._answers:
            raise BatchError("nothing is answered yet")
        page = Path(self._pages.name) / f"{self.answered}.html"
        page.write_bytes(
            of_answers(self._video, self._answers, served=False).encode(errors="replace")
        )
        if not webbrowser.open(page.as_uri()):
            say("no browser could be opened")
        say(str(page))

    def _forget(self, _: str = "") -> None:
        self._turns, self._answers = [], []

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _times(answer: "Answer") -> str:
    times = ", ".join(map(str, answer.evidence)) or "no time"
    return click.style(f"\n  at {times}", dim=True)


def _typed() -> Iterator[str]:
    """Lines that are typed, until Ctrl-D; those of earlier times can be called back."""
    with contextlib.suppress(ImportError):
        import readline

        _remember(readline)
    while True:
        try:
            yield input("? ")
        except KeyboardInterrupt:
            click.echo("")
        except EOFError:
            click.echo("")
            return


def _remember(readline: Any) -> None:
    import atexit

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(state) / "sali-cache" / "history"
    with contextlib.suppress(OSError):  # a home that cannot be written has no history
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        readline.read_history_file(file)
        readline.set_history_length(_MOST_HISTORY)
        atexit.register(readline.write_history_file, file)
