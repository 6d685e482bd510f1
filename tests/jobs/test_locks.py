"""One process at a time makes a file, and the others wait for it."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.locks import held

FORK = multiprocessing.get_context("fork")


def test_who_comes_second_says_so_and_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waits, said = threading.Event(), []

    def second() -> None:
        def report(text: str) -> None:
            said.append(text)
            waits.set()

        with held(tmp_path, ["b", "a"], report):
            order.append("second")

    with held(tmp_path, ["a", "c"], said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(timeout=60)
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"]
    assert said == [f"a: another process makes it in {tmp_path}; waiting for its end"]
    assert list(tmp_path.iterdir()) == []


def test_what_fails_while_it_is_waited_for_is_no_lock(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no room")

    waiting = held(tmp_path, ["a"], print, fail)
    with held(tmp_path, ["a"], print), pytest.raises(OSError, match="no room"), waiting:
        pass


def test_other_names_in_the_folder_are_not_waited_for(tmp_path: Path) -> None:
    with held(tmp_path, ["a"], print), held(tmp_path, ["b"], print):
        names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".a.lock", ".b.lock"]


def die_with_it(folder: Path) -> None:
    with held(folder, ["a"], print):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_taken(tmp_path: Path) -> None:
    process = FORK.Process(target=die_with_it, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
    said: list[str] = []
    with held(tmp_path, ["a"], said.append):
        pass
    assert (said, list(tmp_path.iterdir())) == ([], [])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be written"), held(tmp_path / "x", ["a"], print):
        pass
