"""An archive indexed by a Ray cluster that loses a node; `make test-ray` runs it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from jobs.runs import live_runs
from tests import tiny
from tests.archive.archives import draw_archive, draw_hostile
from tests.clusters.outcome import ROOT, products, wait_for
from tests.jobs.test_workers import is_alive


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two raylets with a core and a GPU each, which is only said to be there."""
    node = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)  # the address is written there, below `ray`
        node["temp_dir"] = f"{folder}/ray"
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(num_cpus=1, num_gpus=1)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def index(*words: object, address: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "batch", "index", *map(str, words)],
        cwd=ROOT,
        env=os.environ if address is None else {**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        text=True,
    )


def tasks_below(ancestor: int, out: Path, phase: str) -> list[int]:
    """Processes of tasks that a raylet started, directly or not."""
    words = (b"batch", b"index", str(out).encode(), phase.encode())
    found = []
    for folder in Path("/proc").iterdir():
        try:
            given = (folder / "cmdline").read_bytes().split(b"\0")
            if all(word in given for word in words) and ancestor in ancestors(int(folder.name)):
                found.append(int(folder.name))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
    return found


def ancestors(process: int) -> set[int]:
    found = set()
    while process:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(process)
    return found


def test_a_cluster_that_loses_a_node_makes_what_one_machine_makes(
    cluster: Cluster, tmp_path: Path
) -> None:
    archive, local, out = tmp_path / "archive", tmp_path / "local", tmp_path / "on a cluster"
    model = tiny.llava_next(tmp_path / "model")
    draw_archive(archive)
    draw_hostile(archive / "hostile")
    command = (archive, "--model", model)
    assert index(*command, "--out", local).wait(timeout=300) == 3

    tasks = ("--engine", "ray", "--tasks", 4, "--gpu-tasks", 2)
    process = index(*command, "--out", out, *tasks, address=cluster.address)
    (node,) = cluster.worker_nodes
    (raylet,) = (started.process.pid for started in node.all_processes["raylet"])
    lost = wait_for(lambda: tasks_below(raylet, out, "analyze") or None, "a task on the node")
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: True if not any(map(is_alive, lost)) else None, "its task to end")
    printed, _ = process.communicate(timeout=500)

    assert process.returncode == 3
    caches = sorted(str(path) for path in out.glob("works/*/caches/*/*"))
    assert sorted(printed.splitlines()) == caches
    assert len(caches) == 3
    assert products(out) == products(local)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_ends_takes_its_tasks_with_it(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "caches"
    draw_archive(archive)
    command = (archive, "--out", out, "--engine", "ray", "--tasks", 2)
    process = index(*command, address=cluster.address)
    wait_for(lambda: live_runs(out) or None, "a task")
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: None if live_runs(out) else True, "the tasks to end")
    time.sleep(5)
    assert live_runs(out) == []
