"""Where a command over an archive runs: here, or cut into stages that another engine places."""

import hashlib
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from batch.cli import options
from jobs.atomic import make_folder
from jobs.shards import Stage
from jobs.slurm.engine import Submission, program, submit

_OWN = {
    "local": set[str](),
    "slurm": {"tasks", "gpu_tasks", "sbatch", "sbatch_gpu", "print_only"},
    "ray": {"tasks", "gpu_tasks"},
}
"""Engine: options that are for it."""

_OF_ONE_RUN = ("phase", "shard", "metrics_file", "dry_run")

_OF_AN_ENGINE = frozenset({"engine", *_OWN["slurm"]})

_OF_A_STAGE = frozenset({"phase", "shard", "jobs", "quiet"})
"""Options that each stage has of its own, and one that is for a terminal. `--jobs` is always given:
a task may see all cores of a node of which it was lent a few."""

Command = Callable[..., Any]
Cut = Callable[[click.Context, int, int], list[Stage]]
"""The stages of a command line, given `--tasks` and `--gpu-tasks`."""


def engine_options(
    cut: Cut, *, folder: str, of_tasks: str, of_gpu_tasks: str | None = None
) -> Callable[[Command], Command]:
    """--engine and what belongs to it; the command itself runs if the engine is local.

    Args:
        folder: name of the parameter that is the folder of caches.
        of_tasks, of_gpu_tasks: what `--tasks` and `--gpu-tasks` count; None: there is none.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(
            *,
            engine: str,
            tasks: int,
            sbatch: tuple[str, ...],
            print_only: bool,
            gpu_tasks: int = 1,
            sbatch_gpu: tuple[str, ...] = (),
            **others: Any,
        ) -> None:
            context = click.get_current_context()
            _refuse_what_does_not_fit(context, engine)
            if engine == "local":
                command(**others)
                return
            stages = cut(context, tasks, gpu_tasks)
            if engine == "ray":
                make_folder(others[folder])
                raise SystemExit(_run_on_ray(stages))
            caches = others[folder].resolve()
            submission = Submission(
                name=f"{caches.name}-{hashlib.sha256(bytes(caches)).hexdigest()[:8]}",
                logs=caches / "logs",
                options=sbatch,
                gpu_options=sbatch_gpu,
            )
            if print_only:
                click.echo(program(stages, submission), nl=False)
            else:
                submit(stages, submission, click.echo)
                where = f"batch status {caches} tells how far it is; logs: {submission.logs}"
                click.echo(where, err=True)

        return _options(of_tasks, of_gpu_tasks)(run)

    return decorate


def _options(of_tasks: str, of_gpu_tasks: str | None) -> options.Option:
    of_gpus = (
        click.option(
            "--gpu-tasks",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help=f"Slurm and Ray: {of_gpu_tasks}",
        ),
        click.option(
            "--sbatch-gpu", multiple=True, metavar="OPTIONS", help="The same, for prefill alone."
        ),
    )
    return options.together(
        click.option(
            "--engine",
            type=click.Choice(list(_OWN)),
            default="local",
            show_default=True,
            help="Where it runs; all machines must see the same folders.",
        ),
        click.option(
            "--tasks",
            type=click.IntRange(1),
            default=8,
            show_default=True,
            help=f"Slurm and Ray: {of_tasks}",
        ),
        click.option(
            "--sbatch",
            multiple=True,
            metavar="OPTIONS",
            help="Of sbatch, as --sbatch='--account=films --time=8:00:00'; may be repeated.",
        ),
        *(of_gpus if of_gpu_tasks is not None else ()),
        click.option("--print", "print_only", is_flag=True, help="Slurm: only show what it gets."),
    )


def _refuse_what_does_not_fit(context: click.Context, engine: str) -> None:
    of_engines = set().union(*_OWN.values()) - _OWN[engine]
    unfit = of_engines if engine == "local" else {*of_engines, *_OF_ONE_RUN}
    for parameter in _given(context):
        if parameter.name in unfit:
            raise click.UsageError(f"{parameter.opts[0]} does not go with --engine {engine}")


def _given(context: click.Context) -> list[click.Parameter]:
    """Parameters that are not left to their defaults, and the model, wherever its name is from."""
    return [
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
        or (parameter.name in ("model", "revision") and context.params[parameter.name] is not None)
    ]


def _run_on_ray(stages: list[Stage]) -> int:
    from tqdm import tqdm

    from batch.cli.progress import progress
    from jobs.ray import Ended, RayEngine

    results = sys.stdout

    def report(ended: Ended) -> None:
        with tqdm.external_write_mode():
            click.echo(ended.errors, err=True, nl=False)
            if ended.stage == stages[-1].name:  # caches are asked for, manifests are not
                click.echo(ended.out, file=results, nl=False)

    return RayEngine(progress, report).run(stages)


def answer_stages(context: click.Context, tasks: int, gpu_tasks: int) -> list[Stage]:
    """The one stage of a job of questions: each task has a core and a GPU, or a core alone."""
    words = _words(context, _OF_A_STAGE | _OF_AN_ENGINE)
    is_cpu = (context.params["device"] or "cuda").startswith("cpu")
    command = (sys.executable, "-m", "batch", "answer", *words)
    return [Stage(name="answer", command=command, tasks=tasks, cpus=1, gpus=int(not is_cpu))]


def index_stages(context: click.Context, tasks: int, gpu_tasks: int) -> list[Stage]:
    """The stages of an index: finding and analysing in `tasks` parts, prefill in `gpu_tasks`.

    A task has one process and core, or `--jobs`, and for prefill a GPU, or one for each `--device`
    that is no CPU.
    """
    jobs = context.params["jobs"] or 1
    words = _words(context, _OF_A_STAGE | _OF_AN_ENGINE)
    command = (sys.executable, "-m", "batch", "index", *words, "--jobs", str(jobs))
    devices = context.params["devices"] or ("cuda",)
    gpus = sum(not device.startswith("cpu") for device in devices)
    counts = {"identify": tasks, "analyze": tasks, "prefill": gpu_tasks}
    return [
        Stage(
            name=phase,
            command=(*command, "--phase", phase),
            tasks=count,
            cpus=jobs if phase != "prefill" else 1,
            gpus=gpus if phase == "prefill" else 0,
        )
        for phase, count in counts.items()
    ]


def _words(context: click.Context, leave_out: frozenset[str]) -> list[str]:
    words: list[str] = []
    for parameter in _given(context):
        name = str(parameter.name)
        if name in leave_out:
            continue
        values = context.params[name]
        for value in values if parameter.multiple else [values]:
            if isinstance(parameter, click.Option):
                words.append(parameter.opts[0])
                if parameter.is_flag:
                    continue
            # As another machine can read it, where nobody is in this folder.
            is_checkpoint = name == "model" and value != "demo" and Path(value).is_dir()
            is_path = isinstance(value, Path) or is_checkpoint
            words.append(str(Path(value).resolve() if is_path else value))
    return words
