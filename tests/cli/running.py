"""Runs commands as a person would type them, in this process or beside it."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from batch.cli import main
from jobs.stopping import SIGNALS


def batch(*words: object, stdin: str | bytes = "") -> Result:
    """Run a command; a traceback is never a way to say something."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*words: object, stdin: str | bytes = "") -> list[str]:
    """The lines on stdout of a command that must succeed."""
    result = batch(*words, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def objects(lines: Iterable[str]) -> list[dict[str, Any]]:
    """JSON Lines, parsed."""
    return [json.loads(line) for line in lines]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, time and size of every file in a folder: unchanged exactly if nothing was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


class Started:
    """A command in a process of its own, forked from one that has imported what a model needs.

    It may be killed and interrupted as `python -m batch` may, without seconds of imports.
    """

    def __init__(self, *words: object) -> None:
        context = multiprocessing.get_context("forkserver")
        self._said, said = zip(*(context.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = context.Process(target=_run, args=([str(word) for word in words], *said))
        self._process.start()
        for end in said:
            end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of `subprocess`; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """What it said on stdout and on stderr, when it has ended."""
        with ThreadPoolExecutor() as readers:  # both while it runs: it waits where a pipe is full
            stdout, stderr = (readers.submit(_read, end) for end in self._said)
            self._process.join(300)
            if self.returncode is None:
                self._process.kill()
                raise AssertionError("it does not end")
            return stdout.result(), stderr.result()


def _read(said: Connection) -> str:
    with open(said.fileno(), closefd=False) as file:
        return file.read()


def _run(words: list[str], stdout: Connection, stderr: Connection) -> None:
    for number, said in enumerate((stdout, stderr), start=1):
        os.dup2(said.fileno(), number)
        said.close()
    # Those that are there have what they write to for a file, which has a place in it.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    # The fork server ignores it in a shell's background, and blocks all if a worker started it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    main(words, prog_name="batch")
