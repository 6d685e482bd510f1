"""`batch index` cut into stages that other machines can run."""

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jobs.engines import Stage

OWN = frozenset({"phase", "shard", "jobs"})
"""Options that each stage has of its own. `--jobs` is always said: a task may see all cores of
a node of which it was lent a few."""


def stages_of(
    context: click.Context, *, tasks: dict[str, int], leave_out: frozenset[str] = frozenset()
) -> list[Stage]:
    """The stages of an index command, as command lines.

    Args:
        context: of the command as it was given.
        tasks: how many tasks each of identify, analyze and prefill is cut into. A task has one
            process and core, or `--jobs`, and for prefill a GPU, or one for each `--device`
            that is no CPU.
        leave_out: parameters that are not for the tasks.
    """
    jobs = context.params["jobs"] or 1
    words = _words(context, OWN | leave_out)
    command = (sys.executable, "-m", "batch", "index", *words, "--jobs", str(jobs))
    devices = context.params["devices"] or ("cuda",)
    gpus = sum(not device.startswith("cpu") for device in devices)
    return [
        Stage(
            name=phase,
            command=(*command, "--phase", phase),
            tasks=count,
            cpus=jobs if phase != "prefill" else 1,
            gpus=gpus if phase == "prefill" else 0,
        )
        for phase, count in tasks.items()
    ]


def _words(context: click.Context, leave_out: frozenset[str]) -> list[str]:
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if name in leave_out or not given:
            continue
        values = context.params[name]
        for value in values if parameter.multiple else [values]:
            if isinstance(parameter, click.Option) and parameter.is_flag:
                words.append(parameter.opts[0])
            elif isinstance(parameter, click.Option):
                words += [parameter.opts[0], _word(name, value)]
            else:
                words.append(_word(name, value))
    return words


def _word(name: str, value: Any) -> str:
    """As another machine can read it, where nobody is in this folder."""
    is_path = isinstance(value, Path) or (name == "model" and Path(value).is_dir())
    return str(Path(value).resolve() if is_path else value)
