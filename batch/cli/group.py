"""A group of commands that are imported when asked for, and the exit codes they share."""

import codecs
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from io import TextIOWrapper
from typing import IO, Any

import click

from batch.errors import BatchError

INTERRUPTED, UNREAD = 130, 141
"""Exit codes after Ctrl-C, and when nobody reads stdout any more: 128 + SIGINT and + SIGPIPE, as
shells have them."""


_ESCAPING = "sali-cache.escaping"


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name that is not UTF-8 as they are; else as JSON escapes a letter."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    escaped = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return escaped, error.start + 1


codecs.register_error(_ESCAPING, _escape)


class CommandGroup(click.Group):
    """Commands by name, each an attribute of the module of that name in `package`.

    Exit codes: 0 done, 1 an error a person can mend (one "error: ..." on stderr), 2 wrong
    usage, 130 interrupted, 141 (quietly) when the reader of stdout left early.

    Args:
        package: where the modules are; a command `two-words` is `two_words` in `two_words.py`.
        summaries: the line of help of each command, in order, so that help imports none.
    """

    def __init__(self, *, package: str, summaries: Mapping[str, str], **attrs: Any) -> None:
        super().__init__(**attrs)
        self.package = package
        self.summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{self.package}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.summaries:
            with formatter.section("Commands"):
                formatter.write_dl(list(self.summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from cachefmt import CacheFileError
        from jobs.atomic import FULL
        from jobs.errors import JobError
        from jobs.workers import tame_threads

        tame_threads()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors=_ESCAPING)
        if not sys.stderr.isatty():  # read by huggingface_hub and transformers when imported
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            return super().invoke(ctx)
        except (BatchError, CacheFileError, JobError) as error:
            raise _Failure(str(error)) from error
        except BrokenPipeError:
            # What is not written yet goes nowhere: Python would report it when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(UNREAD)
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            # What is still in its buffer would fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise _Failure(f"stdout: cannot be written: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(INTERRUPTED)


class _Failure(click.ClickException):
    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True, file=file)
