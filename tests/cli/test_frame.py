"""The frame of the command line: lazy commands, exit codes, what goes to which stream."""

import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import IO

import click
import pytest
from click.testing import CliRunner, Result

from batch import __version__
from batch.cli import COMMANDS, main
from batch.cli.group import CommandGroup

ROOT = Path(__file__).parents[2]

TOYS = {
    "greet": "click.echo('hello')",
    "broken-video": "raise VideoError('a.mp4: empty file')",
    "broken-cache": "raise CacheFileError('a.safetensors', 'truncated')",
    "defect": "raise ZeroDivisionError('a defect')",
    "stop": "raise KeyboardInterrupt",
    "signalled": "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)",
    "letters": r"click.echo('\xe4 \u20ac \U0001f600 \udcff')",
    "flood": "[click.echo(f'line {n}') for n in range(100_000)]",
}
HEADER = """import os, signal, time
import click
from batch.errors import VideoError
from cachefmt import CacheFileError
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package `toys` of small commands, importable."""
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").touch()
    for command, body in TOYS.items():
        name = command.replace("-", "_")
        source = f'{HEADER}\n@click.command()\ndef {name}():\n    """Of itself."""\n    {body}\n'
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    for loaded in [name for name in sys.modules if name.split(".")[0] == "toys"]:
        monkeypatch.delitem(sys.modules, loaded)
    return tmp_path


def run(*args: str) -> Result:
    group = CommandGroup(
        name="toys", package="toys", summaries={name: f"Try {name}." for name in TOYS}
    )
    return CliRunner().invoke(group, args)


def start(
    toys: Path, *args: str, stdout: int | IO[bytes] = subprocess.PIPE, encoding: str = "utf-8"
) -> subprocess.Popen[str]:
    """Run a toy in a process of its own, with pipes for both streams."""
    code = (
        "from batch.cli.group import CommandGroup\n"
        f"CommandGroup(name='toys', package='toys', summaries={dict.fromkeys(TOYS, '')})()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={"PYTHONPATH": f"{ROOT}:{toys}", "PATH": "", "PYTHONIOENCODING": encoding},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="latin-1",
    )


def test_a_command_runs_and_leaves_0(toys: Path) -> None:
    result = run("greet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello\n", "")


def test_help_lists_the_summaries_in_order_and_imports_no_command(toys: Path) -> None:
    result = run("--help")
    shown = [line.split()[0] for line in result.stdout.splitlines() if "Try " in line]
    assert shown == list(TOYS)
    assert not any(name.startswith("toys.") for name in sys.modules)


@pytest.mark.parametrize("args", [["no-such-command"], ["greet", "--no-such-option"]])
def test_wrong_usage_leaves_2_and_says_so_on_stderr(toys: Path, args: list[str]) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such" in result.stderr


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("broken-video", "error: a.mp4: empty file\n"),
        ("broken-cache", "error: a.safetensors: truncated\n"),
    ],
)
def test_an_error_a_person_can_mend_is_one_line_and_leaves_1(
    toys: Path, command: str, line: str
) -> None:
    result = run(command)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


def test_a_defect_is_not_dressed_up_as_a_mendable_error(toys: Path) -> None:
    assert isinstance(run("defect").exception, ZeroDivisionError)


def test_an_interruption_leaves_130_and_a_line(toys: Path) -> None:
    result = run("stop")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "\ninterrupted\n")


def test_the_interrupt_signal_leaves_130_without_a_traceback(toys: Path) -> None:
    process = start(toys, "signalled")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "\ninterrupted\n")


def test_a_reader_that_leaves_early_ends_a_command_quietly(toys: Path) -> None:
    process = start(toys, "flood")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


def test_a_full_disk_under_stdout_is_one_line(toys: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start(toys, "greet", stdout=full)
        _, errors = process.communicate(timeout=60)
    what = "error: stdout: cannot be written: No space left on device\n"
    assert (process.returncode, errors) == (1, what)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("latin-1", b"\xe4 \\u20ac \\ud83d\\ude00 \xff\n"),
        ("utf-8", "ä € 😀 ".encode() + b"\xff\n"),
    ],
)
def test_what_a_terminal_has_no_letter_for_is_written_as_in_json(
    toys: Path, encoding: str, line: bytes
) -> None:
    output, errors = start(toys, "letters", encoding=encoding).communicate(timeout=60)
    assert (output.encode("latin-1"), errors) == (line, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_list_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: batch ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert [one.name for one in options if not one.help] == []


@pytest.mark.parametrize("columns", [60, 100])
def test_help_is_wrapped_to_the_terminal(columns: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batch", "answer", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert columns - 20 < max(map(len, done.stdout.splitlines())) <= columns


def test_every_command_of_the_package_is_in_the_list() -> None:
    names = [file.stem for file in (ROOT / "batch/cli").glob("[a-z]*.py")]
    objects = {name: getattr(import_module(f"batch.cli.{name}"), name, None) for name in names}
    commands = {name for name, found in objects.items() if isinstance(found, click.Command)}
    assert {name.replace("_", "-") for name in commands} == set(COMMANDS)


def test_version_is_told_on_stdout() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"batch, version {__version__}\n"


def test_python_dash_m_batch_is_batch() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batch", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: batch [OPTIONS] COMMAND [ARGS]...")
    assert done.stderr == ""


def test_help_takes_less_than_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "batch", "--help"], cwd=ROOT, capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, as the machine may be busy with other tests.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5
