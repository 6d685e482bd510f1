"""`batch index` on other engines: what they are given, and what does not go with them."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.running import batch, succeed


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def tasks(text: str) -> list[list[str]]:
    """The command lines in a program for Slurm, their shards as they stand."""
    return [shlex.split(line)[:-1] for line in text.splitlines() if " -m batch index " in line]


def test_what_slurm_gets_is_printed_and_nothing_is_written(archive: Path) -> None:
    out = archive.parent / "caches"
    text = "\n".join(
        succeed(
            *("index", archive, "--out", out, "--model", "demo", "--profile", "paper", "--jobs", 4),
            *("--engine", "slurm", "--tasks", 6, "--gpu-tasks", 2, "--print"),
            *("--sbatch=--time=60", "--sbatch=--mem=8G", "--sbatch-gpu=--partition=gpu"),
        )
    )
    assert [task[-3:] for task in tasks(text)] == [
        [phase, "--shard", f"$SLURM_ARRAY_TASK_ID/{count}"]
        for phase, count in (("identify", 6), ("analyze", 6), ("prefill", 2))
    ]
    for task in tasks(text):
        assert task[:5] == [sys.executable, "-m", "batch", "index", str(archive)]
        options = ["--out", str(out), "--profile", "paper", "--model", "demo", "--jobs", "4"]
        assert task[5:13] == options
    identify, analyze, prefill = text.split("sbatch --parsable")[1:]
    for part in (identify, analyze):
        assert "#SBATCH --cpus-per-task=4\n" in part
        assert "#SBATCH --time=60\n#SBATCH --mem=8G\n\n" in part
        assert "gpu" not in part
    assert "#SBATCH --gres=gpu:1\n" in prefill
    assert "#SBATCH --mem=8G\n#SBATCH --partition=gpu\n" in prefill
    assert not out.exists()


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [((), "gpu:1"), (("cuda:0", "cuda:1"), "gpu:2"), (("cpu",), None)],
)
def test_prefill_asks_for_a_gpu_for_each_device_that_is_one(
    archive: Path, devices: tuple[str, ...], gpus: str | None
) -> None:
    words = [word for device in devices for word in ("--device", device)]
    command = ("index", archive, "--out", "out", "--model", "demo", "--engine", "slurm", "--print")
    found = re.findall(r"--gres=(\S+)", "\n".join(succeed(*command, *words)))
    assert found == ([] if gpus is None else [gpus])


def test_tasks_find_folders_that_were_named_from_here(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = archive.parent
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text('{"model_type": "llava"}')
    monkeypatch.chdir(here)
    command = ("index", "films", "--out", "out", "--model", "model", "--engine", "slurm", "--print")
    for task in tasks("\n".join(succeed(*command))):
        assert task[4:9] == [
            str(archive),
            "--out",
            str(here / "out"),
            "--model",
            str(here / "model"),
        ]


def test_submitting_prints_the_jobs_and_says_where_to_look(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, out = archive.parent / "bin", archive.parent / "caches"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/bash\ncat > /dev/null\necho 7\n")
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    result = batch("index", archive, "--out", out, "--model", "demo", "--engine", "slurm")
    assert (result.exit_code, result.stdout) == (0, "identify 7\nanalyze 7\nprefill 7\n")
    assert result.stderr == f"batch status {out} tells how far it is; logs: {out / 'logs'}\n"


@pytest.mark.parametrize(
    ("engine", "words", "named"),
    [
        ("local", ["--tasks", "3"], "--tasks"),
        ("local", ["--print"], "--print"),
        ("ray", ["--sbatch=--time=60"], "--sbatch"),
        ("ray", ["--print"], "--print"),
        ("slurm", ["--phase", "analyze"], "--phase"),
        ("ray", ["--shard", "0/1"], "--shard"),
        ("slurm", ["--metrics-file", "x"], "--metrics-file"),
    ],
)
def test_an_option_of_another_engine_is_wrong_usage(
    archive: Path, engine: str, words: list[str], named: str
) -> None:
    result = batch("index", archive, "--out", "out", "--model", "demo", "--engine", engine, *words)
    assert result.exit_code == 2
    assert f"{named} does not go with --engine {engine}" in result.stderr


def test_without_ray_an_error_says_how_to_get_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("index", archive, "--out", archive.parent / "out", "--model", "demo")
    result = batch(*command, "--engine", "ray")
    assert result.exit_code == 1
    assert "error: Ray is not installed: pip install" in result.stderr
