"""Scripts to be copied: their command lines exist, and the tools they are for take them."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import jobs
from batch import __version__
from batch.cli import main

JOBS = Path(jobs.__file__).parent
SCRIPTS = ("cron/sali-cache", "systemd/sali-cache.service", "slurm/index.sh")
MANIFESTS = ("kubernetes/nightly.yaml", "kubernetes/stages.yaml")


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((JOBS / name).read_text()))


def job_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The spec of a Job, or of the Jobs that a CronJob makes."""
    spec: dict[str, Any] = manifest["spec"]
    return spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec


def command_of(manifest: dict[str, Any]) -> list[str]:
    (container,) = job_of(manifest)["template"]["spec"]["containers"]
    return [*container["command"], *container.get("args", [])]


def commands(name: str) -> list[list[str]]:
    """The words after `batch` of each command line of a script."""
    if name in MANIFESTS:
        return [command_of(manifest)[1:] for manifest in manifests(name)]
    lines = re.findall(r"\bbatch (index [^&>\n]*)", (JOBS / name).read_text())
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("name", [*SCRIPTS, *MANIFESTS])
def test_every_command_line_is_one_of_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    found = commands(name)
    assert found
    for command, *words in found:
        here = [word.replace("/data", str(tmp_path)) for word in words]
        # what the scheduler puts in
        here = [re.sub(r"\$\w+|\$\(\w+\)", "0", word) for word in here]
        index = main.get_command(click.Context(main), command)
        assert index is not None
        context = index.make_context(command, here)
        assert context.params["out"] == tmp_path / "caches"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_service_and_timer(tmp_path: Path) -> None:
    for name in ("sali-cache.service", "sali-cache.timer"):
        text = (JOBS / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/sali-cache/bin/batch", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
    )
    # It exits with 0 also where it ignores a line (systemd 252).
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_that_pods_run_is_made_of_what_there_is() -> None:
    """Read, not built: that needs Docker."""
    text = re.sub(r"^#.*\n", "", (JOBS / "Dockerfile").read_text(), flags=re.MULTILINE)
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line]
    known = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "ENV", "USER", "CMD"}
    assert {name for name, _ in steps} == known
    copied = [word for name, rest in steps if name == "COPY" for word in rest.split()[:-1]]
    assert all((JOBS.parent / name).exists() for name in copied)
    packages = tomllib.loads((JOBS.parent / "pyproject.toml").read_text())
    needed = {*packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    needed |= {packages["project"]["readme"], *packages["project"]["license-files"]}
    assert needed <= set(copied)
    torch = re.search(r"^ARG TORCH=(.*)$", text, re.MULTILINE)
    constraints = (JOBS.parent / ".ci/constraints.txt").read_text().splitlines()
    assert torch is not None
    assert torch[1] in constraints


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_run_the_image_that_the_dockerfile_says_how_to_make(name: str) -> None:
    tag = re.search(
        r"docker build -f jobs/Dockerfile -t (\S+) \.", (JOBS / "Dockerfile").read_text()
    )
    assert tag is not None
    assert tag[1].endswith(f":{__version__}")
    for manifest in manifests(name):
        (container,) = job_of(manifest)["template"]["spec"]["containers"]
        assert container["image"] == tag[1]


def test_every_hint_to_install_is_of_a_package_in_the_ranges_of_ours() -> None:
    ours = tomllib.loads((JOBS.parent / "pyproject.toml").read_text())["project"]
    ranges = {
        one.split(";")[0] for extra in ours["optional-dependencies"].values() for one in extra
    }
    hints = [
        hint
        for folder in ("batch", "jobs")
        for file in (JOBS.parent / folder).rglob("*.py")
        for hint in re.findall(r"pip install '([^'{]+)'", file.read_text())
    ]
    assert len(hints) >= 4
    assert set(hints) <= ranges


def test_every_pod_of_a_stage_has_its_shard() -> None:
    stages = manifests("kubernetes/stages.yaml")
    assert [stage["metadata"]["labels"]["stage"] for stage in stages] == [
        "identify",
        "analyze",
        "prefill",
    ]
    for stage in stages:
        words, job = command_of(stage), job_of(stage)
        assert words[words.index("--phase") + 1] == stage["metadata"]["labels"]["stage"]
        shard = words[words.index("--shard") + 1]
        assert shard == f"$(JOB_COMPLETION_INDEX)/{job['completions']}"
        assert job["completionMode"] == "Indexed"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_that_was_stopped_is_run_again_and_one_that_failed_is_not(name: str) -> None:
    for manifest in manifests(name):
        rules = job_of(manifest)["podFailurePolicy"]["rules"]
        actions = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
        assert actions.pop(75) == "Ignore"
        assert set(actions) == {1, 2, 3}
        assert set(actions.values()) <= {"FailJob", "FailIndex"}
