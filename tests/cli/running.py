"""Runs commands in this process, as a person would type them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from batch.cli import main


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
