"""The engine for Ray, on a Ray of threads; `make test-ray` runs it on a real cluster."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.ray import Ended, RayEngine
from jobs.shards import Stage
from tests.jobs.fake_ray import FakeRay


class Talk:
    """Hears what an engine says."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.progress: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def follow(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        done: list[int] = []
        self.progress.append((what, total, done))
        yield done.append


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def stage(name: str, script: str, *, tasks: int = 2, cpus: int = 1, gpus: int = 0) -> Stage:
    """Tasks that run a line of Python; the last of its words is their shard."""
    command = (sys.executable, "-c", f"import os, sys; shard = sys.argv[-1]; {script}")
    return Stage(name=name, command=command, tasks=tasks, cpus=cpus, gpus=gpus)


def run(*stages: Stage, tries: int = 5) -> tuple[int, Talk]:
    talk = Talk()
    engine = RayEngine(talk.follow, talk.ended.append, tries=tries, again_after_s=0.0)
    return engine.run(stages), talk


def test_all_tasks_of_all_stages_are_run_and_told(ray: FakeRay) -> None:
    script = "print(shard); print('careful', file=sys.stderr)"
    code, talk = run(stage("one", script), stage("two", script, tasks=1, cpus=2))
    assert code == 0
    said = sorted((ended.stage, ended.out) for ended in talk.ended)
    assert said == [("one", "0/2\n"), ("one", "1/2\n"), ("two", "0/1\n")]
    assert {ended.errors for ended in talk.ended} == {"careful\n"}
    assert [(what, total, sum(done)) for what, total, done in talk.progress] == [
        ("one", 2, 2),
        ("two", 1, 1),
    ]
    assert [asked["num_cpus"] for asked in ray.asked] == [1, 2]
    assert not ray.is_connected


def test_the_next_stage_goes_on_without_what_failed(ray: FakeRay) -> None:
    code, talk = run(stage("one", "sys.exit(3)"), stage("two", "pass"))
    assert code == 3
    assert [ended.code for ended in talk.ended] == [3, 3, 0, 0]


def test_a_stage_that_cannot_be_run_is_the_last(ray: FakeRay) -> None:
    code, talk = run(stage("one", "sys.exit(int(shard[0]))"), stage("two", "pass"))
    assert code == 1
    assert sorted(ended.code for ended in talk.ended) == [0, 1]


@pytest.mark.parametrize("end", ["sys.exit(75)", "os.kill(os.getpid(), 9)"])
def test_a_task_that_was_stopped_or_killed_is_run_again(
    ray: FakeRay, tmp_path: Path, end: str
) -> None:
    script = (
        f"from pathlib import Path; first = Path({str(tmp_path)!r}, shard[0])\n"
        f"if not first.exists(): first.touch(); {end}"
    )
    code, talk = run(stage("one", script))
    assert code == 0
    assert len(talk.ended) == 4
    ((_, total, done),) = talk.progress
    assert sum(done) == total == 2


def test_a_task_whose_node_is_lost_is_run_again(ray: FakeRay) -> None:
    ray.losses = 1
    code, talk = run(stage("one", "pass"))
    assert code == 0
    assert [ended.errors for ended in talk.ended if ended.code] == ["warning: the node died\n"]


def test_a_node_that_lacks_what_a_task_needs_ends_it_all(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JobError, match=r"one: a node .* cannot run .* 'setpriv'"):
        run(stage("one", "pass"))
    assert not ray.is_connected


def test_a_task_that_is_stopped_again_and_again_leaves_75(ray: FakeRay) -> None:
    code, talk = run(stage("one", "sys.exit(75)", tasks=1), stage("two", "pass"), tries=2)
    assert (code, len(talk.ended)) == (75, 2)


def test_a_signal_cancels_what_runs_and_leaves_75(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cancelled = tmp_path / "cancelled"
    monkeypatch.setattr(ray, "cancel", lambda task, force: cancelled.touch(), raising=False)
    script = (
        f"import time; os.kill({os.getpid()}, {signal.SIGTERM.value})\n"
        f"while not os.path.exists({str(cancelled)!r}): time.sleep(0.01)"
    )
    code, _ = run(stage("one", script, tasks=1))
    assert (code, cancelled.exists()) == (75, True)
    assert not ray.is_connected


def test_what_no_node_has_is_said(ray: FakeRay) -> None:
    _, talk = run(stage("one", "pass", gpus=1))
    ((title, _, _),) = talk.progress
    assert title == "one (waits for a node with 1 CPU and 1 GPU; --device cpu asks for no GPU)"


def test_what_ray_prints_is_kept_from_stdout(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: sys.stdout.write("(raylet)\n"))
    run(stage("one", "pass"))
    assert capsys.readouterr() == ("", "(raylet)\n")


def test_a_cluster_that_is_not_there_is_named(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(JobError, match="RAY_ADDRESS=head:6379: nobody answers"):
        run(stage("one", "pass"))
