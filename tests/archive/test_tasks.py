"""An archive done by many tasks: phases, shards, and command lines that an engine places."""

import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.neural import SaliencyNetwork
from batch.archive import run
from batch.archive.identity import IndexSettings
from batch.archive.recording import Listener
from batch.archive.request import Phase, Request
from batch.archive.tally import Tally
from batch.cli import main
from batch.cli.engines import index_stages
from batch.settings import CacheSettings, ModelSettings
from batch.video import Sampling
from jobs.runs import Run
from jobs.shards import Shard
from jobs.stopping import Stop
from tests import networks
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import contents
from tests.archive.indexing import run_index, settings_of
from tests.cli.running import batch, succeed

PHASES = ("identify", "analyze", "prefill")


def context_of(*words: object) -> click.Context:
    """The index command as parsed from the command line, without running it."""
    command = main.get_command(click.Context(main), "index")
    assert command is not None
    return command.make_context("index", [str(word) for word in words])


def without_models(found: dict[str, Any]) -> dict[str, Any]:
    """All but the facts of models, which analysis alone has another of."""
    return {name: content for name, content in found.items() if not name.startswith("models/")}


def test_tasks_of_every_phase_make_what_one_run_makes(
    indexed: IndexedArchive, fresh_out: Path
) -> None:
    context = context_of(indexed.archive, "--out", fresh_out, "--model", indexed.model)
    stages = index_stages(context, 2, 2)
    assert [stage.name for stage in stages] == list(PHASES)
    codes = []
    *before, prefill = stages
    for stage in before:  # all tasks of a stage at once, on one folder
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        tasks = [subprocess.Popen(stage.task(index), **quiet) for index in range(stage.tasks)]
        codes.append({task.wait(timeout=300) for task in tasks})
    # With models at once in test_calibrating.py, as each takes seconds to begin.
    codes.append({batch(*prefill.task(index)[3:]).exit_code for index in range(prefill.tasks)})
    assert codes == [{3}, {0}, {0}]
    assert without_models(contents(fresh_out)) == without_models(contents(indexed.out))


def test_models_on_two_devices_do_each_video_once(indexed: IndexedArchive, fresh_out: Path) -> None:
    files = run_index(indexed.archive, fresh_out, indexed.model, devices=("cpu", "cpu")).files
    assert sorted(files) == sorted(fresh_out.rglob("*.safetensors"))
    assert len(files) == 3


def test_a_task_is_a_command_line_with_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    context = context_of(
        *(tmp_path / "archive", "--out", tmp_path / "out", "--fps", 2, "--rehash", "--jobs", 3),
        *("--device", "cuda:0", "--device", "cuda:1", "--max-bytes", "500G", "--shard", "0/1"),
        *("--model", "a/b", "--quiet"),
    )
    stage = index_stages(context, 1, 4)[-1]
    assert stage.task(3)[1:5] == ("-m", "batch", "index", str(tmp_path / "archive"))
    options = " ".join(stage.task(3)[5:])
    assert sorted(options.split(" --")) == sorted(
        f"--out {tmp_path / 'out'} --device cuda:0 --device cuda:1 --max-bytes 500000000000 "
        "--rehash --fps 2.0 --model a/b --jobs 3 --phase prefill --shard 3/4".split(" --")
    )
    assert (stage.cpus, stage.gpus) == (1, 2)


def test_every_option_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks.install(monkeypatch)
    network = networks.write_network(tmp_path / "net.onnx")
    seen: list[Request] = []

    def remember_request(request: Request, stop: Stop, listener: Listener) -> Tally:
        seen.append(request)
        return Tally()

    monkeypatch.setattr(run, "index", remember_request)
    (tmp_path / "archive").mkdir()
    command = ("index", tmp_path / "archive", "--out", tmp_path / "out")
    succeed(*command, "--model", "demo")
    succeed(
        *(*command, "--phase", "prefill", "--shard", "1/4", "--rehash", "--retry-failed"),
        *("--jobs", 3, "--device", "cpu", "--device", "cuda:1", "--max-bytes", "2KiB"),
        *("--model", "x", "--revision", "y", "--offline", "--dtype", "float16", "--attn", "torch"),
        *("--profile", "paper", "--fps", 2, "--max-samples", 9, "--reference", "previous"),
        *("--positions", "original", "--reuse", "none", "--timestamps"),
        *("--block-samples", 5, "--saliency", "neural", "--saliency-model", network),
    )
    plain, full = seen
    assert plain.settings == settings_of(Path("demo"))
    assert (plain.phase, plain.shard, plain.devices) == (Phase.ALL, Shard(), (None,))
    assert (plain.rehash, plain.retry_failed, plain.max_bytes) == (False, False, None)
    assert full.settings == IndexSettings(
        model=ModelSettings(
            name="x", revision="y", offline=True, dtype="float16", attention="torch"
        ),
        analysis=AnalysisSettings.of_profile(
            "paper",
            sampling=Sampling(rate_hz=2, max_samples=9),
            reference="previous",
            saliency=SaliencyNetwork.of(network),
        ),
        cache=CacheSettings(positions="original", reuse="none", timestamps=True, block_samples=5),
    )
    assert (full.archive, full.out) == (tmp_path / "archive", tmp_path / "out")
    assert (full.phase, full.shard, full.jobs) == (Phase.PREFILL, Shard(index=1, count=4), 3)
    assert (full.rehash, full.retry_failed, full.max_bytes) == (True, True, 2048)
    assert full.devices == ("cpu", "cuda:1")


def test_caches_among_the_videos_are_wrong_usage(tmp_path: Path) -> None:
    result = batch("index", tmp_path, "--out", tmp_path, "--model", "demo")
    assert result.exit_code == 2
    assert "--out is ARCHIVE itself" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_shard_without_a_phase_is_wrong_usage(indexed: IndexedArchive, tmp_path: Path) -> None:
    command = ("index", indexed.archive, "--out", tmp_path / "out", "--model", "demo")
    result = batch(*command, "--shard", "0/2")
    assert result.exit_code == 2
    assert "--shard goes with --phase" in result.stderr


@pytest.mark.parametrize("text", ["2/2", "x", "1"])
def test_a_shard_that_is_none_is_wrong_usage(
    indexed: IndexedArchive, tmp_path: Path, text: str
) -> None:
    command = ("index", indexed.archive, "--out", tmp_path / "out", "--model", "demo")
    result = batch(*command, "--shard", text)
    assert result.exit_code == 2
    assert "--shard" in result.stderr


def test_prefill_of_what_nobody_analysed_says_so(indexed: IndexedArchive, fresh_out: Path) -> None:
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model)
    batch(*command, "--phase", "identify")
    result = batch(*command, "--phase", "prefill")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "3 not analysed yet" in result.stderr


def test_a_second_run_at_the_same_time_comes_back_later(indexed: IndexedArchive) -> None:
    (work,) = (indexed.out / "works").iterdir()
    with Run.begin(indexed.out, {f"prefill {work.name}": Shard()}):
        result = batch("index", indexed.archive, "--out", indexed.out, "--model", indexed.model)
    assert (result.exit_code, result.stdout) == (75, "")
    assert "is at work on shard 0/1 of the same" in result.stderr
