"""Workers: what came of each task, whatever happens to the process."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import workers
from jobs.stopping import SIGNALS
from jobs.workers import (
    Died,
    Finished,
    Pool,
    Raised,
    Result,
    Stuck,
    Worker,
    collect,
    tame_threads,
    usable_cores,
)
from tests.jobs.handlers import fail_to_make_handler, make_handler

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool([Worker(make_handler, {"SAID": "this"})]) as pool:
        yield pool


def result_of(pool: Pool, verb: str, value: Any = None) -> Result:
    pool.submit((verb, value))
    ((_, result),) = collect([pool], 60)
    return result


def value_of(pool: Pool, verb: str, value: Any = None) -> Any:
    result = result_of(pool, verb, value)
    assert isinstance(result, Finished)
    return result.value


def test_a_handler_is_made_once_in_a_process_of_its_own(pool: Pool) -> None:
    first, second = value_of(pool, "tell", 1), value_of(pool, "tell", 2)
    assert (first["value"], second["value"]) == (1, 2)
    assert first["pid"] == second["pid"] != os.getpid()


def test_an_error_comes_back_with_its_task(pool: Pool) -> None:
    result = result_of(pool, "raise", KeyError("x"))
    assert isinstance(result, Raised)
    assert (result.task[0], repr(result.error)) == ("raise", "KeyError('x')")


@pytest.mark.parametrize(
    ("verb", "text"), [("unportable", "Unportable: 1 and 2"), ("unreadable", "Unreadable: xx")]
)
def test_an_error_that_cannot_travel_comes_back_as_its_text(
    pool: Pool, verb: str, text: str
) -> None:
    result = result_of(pool, verb)
    assert isinstance(result, Raised)
    assert str(result.error) == text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_costs_its_task_and_is_replaced(
    pool: Pool, number: signal.Signals
) -> None:
    before = value_of(pool, "tell")["pid"]
    result = result_of(pool, "signal", number)
    assert isinstance(result, Died)
    assert (result.task, result.signal) == (("signal", number), number)
    assert value_of(pool, "tell")["pid"] != before


def test_a_process_that_is_killed_while_it_answers_costs_its_task(pool: Pool) -> None:
    pid = value_of(pool, "tell")["pid"]
    pool.submit(("bytes", 1 << 24))  # more than a pipe holds, so it cannot have answered
    (worker,) = pool.workers
    while readable_bytes(worker.connection.fileno()) < 1000:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    ((_, result),) = collect([pool], 60)
    assert isinstance(result, Died)
    assert result.signal is signal.SIGKILL


def test_a_process_that_leaves_by_itself_is_told_from_a_killed_one(pool: Pool) -> None:
    result = result_of(pool, "leave", 3)
    assert isinstance(result, Died)
    assert result.signal is None


def test_a_task_that_makes_no_progress_costs_itself_and_the_process_is_replaced() -> None:
    with Pool([Worker(make_handler, {}, patience_s=0.5) for _ in range(2)]) as pool:
        before = value_of(pool, "tell")["pid"]
        pool.submit(("sleep", 600))
        pool.submit(("sleep", 0))
        results = [result for _, result in wait_for(pool, 2)]
        stuck = next(result for result in results if isinstance(result, Stuck))
        assert stuck.task == ("sleep", 600)
        assert 0.5 <= stuck.silent_s < 60
        assert [result.task for result in results if isinstance(result, Finished)] == [("sleep", 0)]
        assert not is_alive(before)
        assert pool.tasks == []
        assert value_of(pool, "tell")["pid"] != before


def test_a_task_that_gets_on_may_take_as_long_as_it_likes() -> None:
    with Pool([Worker(make_handler, {}, patience_s=1.0)]) as pool:
        value_of(pool, "tell")
        pool.submit(("get on", 3.0))
        ((_, result),) = wait_for(pool, 1)
    assert isinstance(result, Finished)


def test_what_the_run_itself_spent_otherwise_makes_no_task_stuck() -> None:
    with Pool([Worker(make_handler, {}, patience_s=1.0)]) as pool:
        value_of(pool, "tell")
        pool.submit(("sleep", 2.5))
        assert collect([pool], 0.1) == []
        time.sleep(2.0)  # as if the run had been suspended
        assert collect([pool], 0.1) == []
        ((_, result),) = wait_for(pool, 1)
    assert isinstance(result, Finished)


def wait_for(pool: Pool, count: int) -> list[tuple[Worker, Result]]:
    """So many results, of which a run would hear."""
    found: list[tuple[Worker, Result]] = []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        found += collect([pool], 0.1)
    return found


def test_a_desk_that_cannot_be_opened_is_the_task_s_error() -> None:
    with Pool([Worker(fail_to_make_handler, {})]) as pool:
        result = result_of(pool, "tell")
    assert isinstance(result, Raised)
    assert isinstance(result.error, OSError)


def test_the_environment_is_the_worker_s_alone(pool: Pool) -> None:
    assert value_of(pool, "environment", "SAID") == "this"
    assert "SAID" not in os.environ


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("250000 100000", 3), ("1000 100000", 1), ("9900000 100000", 64)],
)
def test_cores_are_those_that_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(workers, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert usable_cores() == 64
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == cores


def test_threads_sleep_while_they_wait_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    monkeypatch.setattr(os, "environ", environment := {})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for usable, told, expected in (
        (64, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (4, {}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "4"}),
        (4, {"OMP_NUM_THREADS": "9"}, {"OMP_NUM_THREADS": "9", "OMP_WAIT_POLICY": "PASSIVE"}),
        *((64, {name: "1"}, {name: "1"}) for name in names[:3]),
    ):
        monkeypatch.setattr(workers, "usable_cores", lambda usable=usable: usable)
        environment.clear()
        environment.update(told)
        tame_threads()
        assert environment == expected


def test_signals_that_ask_to_stop_are_left_to_the_parent(pool: Pool) -> None:
    assert set(SIGNALS) <= set(value_of(pool, "mask"))
    assert not set(SIGNALS) & set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_signals_are_left_to_the_parent_from_the_first_worker_on() -> None:
    code = (
        "from jobs.workers import Pool, Worker, collect\n"
        "from tests.jobs.handlers import make_handler\n"
        "if __name__ == '__main__':\n"
        "    with Pool([Worker(make_handler, {})]) as pool:\n"
        "        pool.submit(('mask', None))\n"
        "        print(*map(int, collect([pool], 60)[0][1].value))\n"
    )
    script = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert set(SIGNALS) <= set(map(int, script.stdout.split()))


def test_waiting_ends_when_the_time_is_over() -> None:
    with Pool([Worker(make_handler, {})]) as pool:
        pool.submit(("sleep", 60))
        assert collect([pool], 0.1) == []
        assert pool.tasks == [("sleep", 60)]
        assert not pool.is_free
        started = time.monotonic()
    assert time.monotonic() - started < 30


def test_a_worker_does_not_outlive_its_parent() -> None:
    code = (
        "import os, signal\n"
        "from jobs.workers import Pool, Worker, collect\n"
        "from tests.jobs.handlers import make_handler\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool([Worker(make_handler, {})])\n"
        "    pool.submit(('tell', None))\n"
        "    print(collect([pool], 60)[0][1].value['pid'], flush=True)\n"
        "    pool.submit(('sleep', 600))\n"
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


def readable_bytes(pipe: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
