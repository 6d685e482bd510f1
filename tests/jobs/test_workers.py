"""Workers: what came of each task, whatever happens to the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.stopping import SIGNALS
from jobs.workers import Crew, Died, Finished, Raised, Result, Worker, collect
from tests.jobs.desks import open_badly, open_desk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew([Worker(open_desk, {"SAID": "this"})]) as crew:
        yield crew


def result_of(crew: Crew, verb: str, value: Any = None) -> Result:
    crew.give((verb, value))
    ((_, result),) = collect([crew], 60)
    return result


def value_of(crew: Crew, verb: str, value: Any = None) -> Any:
    result = result_of(crew, verb, value)
    assert isinstance(result, Finished)
    return result.value


def test_a_desk_is_opened_once_in_a_process_of_its_own(crew: Crew) -> None:
    first, second = value_of(crew, "tell", 1), value_of(crew, "tell", 2)
    assert (first["value"], second["value"]) == (1, 2)
    assert first["pid"] == second["pid"] != os.getpid()


def test_an_error_comes_back_with_its_task(crew: Crew) -> None:
    result = result_of(crew, "raise", KeyError("x"))
    assert isinstance(result, Raised)
    assert (result.task[0], repr(result.error)) == ("raise", "KeyError('x')")


def test_an_error_that_cannot_travel_comes_back_as_its_text(crew: Crew) -> None:
    result = result_of(crew, "unportable")
    assert isinstance(result, Raised)
    assert str(result.error) == "Unportable: 1 and 2"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_costs_its_task_and_is_replaced(
    crew: Crew, number: signal.Signals
) -> None:
    before = value_of(crew, "tell")["pid"]
    result = result_of(crew, "signal", number)
    assert isinstance(result, Died)
    assert (result.task, result.signal) == (("signal", number), number)
    assert value_of(crew, "tell")["pid"] != before


def test_a_process_that_leaves_by_itself_is_told_from_a_killed_one(crew: Crew) -> None:
    result = result_of(crew, "leave", 3)
    assert isinstance(result, Died)
    assert result.signal is None


def test_a_desk_that_cannot_be_opened_is_the_task_s_error() -> None:
    with Crew([Worker(open_badly, {})]) as crew:
        result = result_of(crew, "tell")
    assert isinstance(result, Raised)
    assert isinstance(result.error, OSError)


def test_the_environment_is_the_worker_s_alone(crew: Crew) -> None:
    assert value_of(crew, "environment", "SAID") == "this"
    assert "SAID" not in os.environ


def test_signals_that_ask_to_stop_are_left_to_the_parent(crew: Crew) -> None:
    assert set(SIGNALS) <= set(value_of(crew, "mask"))
    assert not set(SIGNALS) & set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_signals_are_left_to_the_parent_from_the_first_worker_on() -> None:
    code = (
        "from jobs.workers import Crew, Worker, collect\n"
        "from tests.jobs.desks import open_desk\n"
        "if __name__ == '__main__':\n"
        "    with Crew([Worker(open_desk, {})]) as crew:\n"
        "        crew.give(('mask', None))\n"
        "        print(*map(int, collect([crew], 60)[0][1].value))\n"
    )
    script = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert set(SIGNALS) <= set(map(int, script.stdout.split()))


def test_waiting_ends_when_the_time_is_over() -> None:
    with Crew([Worker(open_desk, {})]) as crew:
        crew.give(("sleep", 60))
        assert collect([crew], 0.1) == []
        assert crew.tasks == [("sleep", 60)]
        assert not crew.is_free
        started = time.monotonic()
    assert time.monotonic() - started < 30


def test_a_worker_does_not_outlive_its_parent() -> None:
    code = (
        "import os, signal\n"
        "from jobs.workers import Crew, Worker, collect\n"
        "from tests.jobs.desks import open_desk\n"
        "if __name__ == '__main__':\n"
        "    crew = Crew([Worker(open_desk, {})])\n"
        "    crew.give(('tell', None))\n"
        "    print(collect([crew], 60)[0][1].value['pid'], flush=True)\n"
        "    crew.give(('sleep', 600))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    worker = int(script.stdout)
    until = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(worker)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
